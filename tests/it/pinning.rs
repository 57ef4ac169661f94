//! Certificates pinned to the address of the login, and load balancers that say who their client is. The loopback network
//! has many addresses: 127.0.0.2 is another client.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::{Cluster, USER_PASSWORD};
use crate::process::{Output, run, tool, wait_for};
use crate::setup::Setup;
use crate::user::User;

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn pinning_role(setup: &Setup, name: &str, pins: bool) {
    let role = format!(
        "metadata: {{name: {name}}}\nspec:\n  options: {{pin_source_ip: {pins}}}\n  allow:\n    node_labels: {{\"*\": \"*\"}}\n    \
         logins: [{}]\n",
        setup.os.name
    );
    setup.cluster.add_role(&role).ok();
}

/// Plain ssh through the front door from an address.
fn from(user: &User, source: Ipv4Addr, door: &str) -> Output {
    let (host, port) = door.split_once(':').unwrap();
    let mut command = user.plain_openssh();
    command.args(["-b", &source.to_string(), "-o", "AddressFamily=inet", "-o", "HostKeyAlias=localhost"]);
    command.args(["-p", port, "-W", "node-1:22", &format!("{}@{host}", user.name)]);
    run(command, b"")
}

/// A call of the REST API from an address: status and body.
fn call(cluster: &Cluster, source: Ipv4Addr, token: &str, path: &str, body: Option<&Value>) -> (String, Value) {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "30", "-w", "\n%{http_code}", "--interface", &source.to_string(), "--cacert"]);
    command.arg(cluster.path("hub/tls/ca.pem"));
    if !token.is_empty() {
        command.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    if let Some(body) = body {
        command.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
    }
    command.arg(format!("https://{}/v1/webapi/{path}", cluster.addr["https"]));
    let answer = run(command, b"").ok();
    let (body, status) = answer.rsplit_once('\n').unwrap();
    (status.to_owned(), serde_json::from_str(body).unwrap_or_default())
}

fn pins(certificate: &str) -> bool {
    let mut command = Command::new("ssh-keygen");
    command.args(["-L", "-f", "-"]);
    let text = run(command, certificate.as_bytes()).ok();
    assert!(!text.contains("source-address") || text.contains("source-address 127.0.0.1"), "{text}");
    text.contains("source-address")
}

#[test]
fn a_pinned_certificate_is_good_from_the_address_of_its_login_only() {
    let setup = Setup::shared();
    pinning_role(&setup, "pinned", true);
    let user = setup.somebody_with("pinned");
    let certificate = user.store().join("profiles/localhost/keys/ssh_key-cert.pub");
    assert!(pins(&std::fs::read_to_string(certificate).unwrap()));
    user.msh(&["ssh", &setup.msh_target(), "--", "true"]).ok();
    assert!(from(&user, Ipv4Addr::LOCALHOST, user.front_door()).stdout.starts_with("SSH-2.0-"));

    let refused = from(&user, ELSEWHERE, user.front_door());
    assert_eq!((refused.code, refused.stdout.as_str()), (255, ""), "{refused:?}");
    let reason = "the certificate is pinned to 127.0.0.1, and this connection comes from 127.0.0.2; run msh login";
    assert!(refused.stderr.contains(reason), "{refused:?}");
    wait_for("the event", || !setup.cluster.audit_of("access.denied", &user.name).is_empty());
    let event = &setup.cluster.audit_of("access.denied", &user.name)[0];
    assert_eq!(event["event_code"], "T4001W", "{event:#?}");
    assert_eq!((&event["client_ip"], &event["details"]["pinned_to"]), (&"127.0.0.2".into(), &"127.0.0.1".into()));
}

#[test]
fn a_pinned_login_is_good_from_its_address_only_and_its_certificates_stay_pinned() {
    let setup = Setup::shared();
    let cluster = &setup.cluster;
    pinning_role(&setup, "pinned-for-now", true);
    let user = setup.somebody_with("pinned-for-now");
    let login = json!({ "username": user.name, "password": USER_PASSWORD });
    let (status, session) = call(cluster, Ipv4Addr::LOCALHOST, "", "login", Some(&login));
    assert_eq!(status, "200", "{session}");
    let token = session["session_id"].as_str().unwrap();
    assert_eq!(call(cluster, Ipv4Addr::LOCALHOST, token, "whoami", None).0, "200");
    let (status, refused) = call(cluster, ELSEWHERE, token, "whoami", None);
    assert_eq!(status, "401", "{refused}");
    assert!(refused.to_string().contains("your login is pinned to 127.0.0.1, and this call comes from 127.0.0.2"));
    let event = &cluster.audit_of("access.denied", &user.name)[0];
    assert_eq!((&event["event_code"], &event["client_ip"]), (&"T4001W".into(), &"127.0.0.2".into()), "{event:#?}");

    let key = user.home().join("another");
    let _ = std::fs::remove_file(&key);
    tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key.display().to_string()]).ok();
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let request = json!({ "ssh_public_key": public.trim() });
    // The rule goes, and what comes of this login keeps it.
    pinning_role(&setup, "pinned-for-now", false);
    let (status, issued) = call(cluster, Ipv4Addr::LOCALHOST, token, "certs", Some(&request));
    assert_eq!(status, "200", "{issued}");
    assert!(pins(issued["ssh_certificate"].as_str().unwrap()));
    assert_eq!(call(cluster, ELSEWHERE, token, "certs", Some(&request)).0, "401");
    // A new login is free.
    let (_, session) = call(cluster, ELSEWHERE, "", "login", Some(&login));
    let token = session["session_id"].as_str().unwrap();
    let (_, issued) = call(cluster, Ipv4Addr::LOCALHOST, token, "certs", Some(&request));
    assert!(!pins(issued["ssh_certificate"].as_str().unwrap()));
}

#[test]
fn a_certificate_that_is_older_than_the_rule_is_refused_with_the_way_out() {
    let setup = Setup::shared();
    pinning_role(&setup, "pinned-later", false);
    let user = setup.somebody_with("pinned-later");
    user.msh(&["ssh", &setup.msh_target(), "--", "true"]).ok();
    pinning_role(&setup, "pinned-later", true);
    let mut told = String::new();
    wait_for("the rule to hold", || {
        told = user.msh(&["ssh", &setup.msh_target(), "--", "true"]).stderr;
        !told.is_empty()
    });
    assert!(told.contains("requires a certificate pinned to your address; run msh login"), "{told}");
    assert_eq!(setup.cluster.audit_of("access.denied", &user.name)[0]["event_code"], "T4001W");
    user.login();
    user.msh(&["ssh", &setup.msh_target(), "--", "true"]).ok();
}

/// A load balancer at an address: every connection to it goes on to `target` behind `header`.
fn balancer(source: Ipv4Addr, target: &str, header: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string().replace("127.0.0.1", "localhost");
    let target: SocketAddrV4 = target.parse().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let mut hub = connect_from(source, target);
            hub.write_all(header).unwrap();
            let (from, to) = (client.try_clone().unwrap(), hub.try_clone().unwrap());
            std::thread::spawn(move || pass(from, to));
            std::thread::spawn(move || pass(hub, client));
        }
    });
    address
}

fn connect_from(source: Ipv4Addr, target: SocketAddrV4) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(source, 0)).unwrap();
    connect(&socket, &target).unwrap();
    socket.into()
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn the_client_behind_a_listed_balancer_counts_and_nobody_else_may_name_one() {
    const HEADER: &[u8] = b"PROXY TCP4 198.51.100.7 10.0.0.1 5000 443\r\n";
    let dir = tempfile::Builder::new().prefix("mezite-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut cluster = Cluster::start_in(dir, &[("MEZITE_PROXY_PROXY_PROTOCOL_FROM", "127.0.0.2, 192.0.2.0/24")]);
    cluster.add_agent("node-1", &[]);
    cluster.add_role("metadata: {name: pinned}\nspec:\n  options: {pin_source_ip: true}\n  allow:\n    node_labels: {\"*\": \"*\"}\n    logins: [root]\n").ok();
    cluster.add_user("alice", "pinned", "root");

    // Over HTTPS.
    let alice = cluster.nobody("alice");
    let door = balancer(ELSEWHERE, &cluster.addr["https"], HEADER);
    let proxy = format!("--proxy={door}");
    let login = ["login", &proxy, "--user=alice", "--password-stdin"];
    alice.msh_with(&login, b"a wrong password\n").refused(5);
    let failed = &cluster.audit("user.login.failed")[0];
    assert_eq!(failed["client_ip"], "198.51.100.7", "{failed:#?}");
    alice.msh_with(&login, format!("{USER_PASSWORD}\n").as_bytes()).ok();
    assert_eq!(cluster.audit_of("user.login", "alice")[0]["client_ip"], "198.51.100.7");

    // Over SSH: the certificate is pinned to the client, who comes by the balancer.
    let door = balancer(ELSEWHERE, &cluster.addr["ssh"], HEADER);
    let through = from(&alice, Ipv4Addr::LOCALHOST, &door);
    assert!(through.stdout.starts_with("SSH-2.0-"), "{through:?}");
    let direct = from(&alice, Ipv4Addr::LOCALHOST, alice.front_door());
    assert!(direct.stderr.contains("pinned to 198.51.100.7, and this connection comes from 127.0.0.1"), "{direct:?}");

    // A header of somebody who is not listed, and a balancer without one.
    for (source, header) in [(Ipv4Addr::LOCALHOST, HEADER), (ELSEWHERE, b"" as &[u8])] {
        let door = balancer(source, &cluster.addr["ssh"], header);
        let refused = from(&alice, Ipv4Addr::LOCALHOST, &door);
        assert_eq!((refused.code, refused.stdout.as_str()), (255, ""), "{refused:?}");
        let door = balancer(source, &cluster.addr["https"], header);
        let out = alice.msh_with(&["login", &format!("--proxy={door}"), "--user=alice", "--password-stdin"], b"x\n");
        assert_ne!(out.code, 0, "{out:?}");
    }
}
