//! Forwarding by stock OpenSSH: ports and Unix sockets in both directions, SOCKS, the key agent; and what is refused.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::{Client, run, tool, wait_for};
use crate::setup::Setup;
use crate::user::User;

const LIMIT: Duration = Duration::from_secs(30);

/// A service that answers each connection with what it got, in capitals.
fn shouting(listener: TcpListener) -> String {
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || shout(stream.try_clone().unwrap(), stream));
        }
    });
    address
}

fn shout(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count].to_ascii_uppercase()).is_err() {
            return;
        }
    }
}

/// A free port of loopback, for a client that wants a number.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[track_caller]
fn shouts(mut stream: impl Read + Write) {
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HELLO");
}

fn tcp(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// A directory where the OS user may make sockets.
fn place(setup: &Setup, name: &str) -> PathBuf {
    let dir = setup.cluster.path(name);
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

fn denials(setup: &Setup, user: &User) -> Vec<Value> {
    setup.cluster.audit_of("access.denied.port_forwarding", &user.name)
}

#[test]
fn a_port_of_the_node_comes_to_the_client_and_goes_with_the_connection() {
    let setup = Setup::shared();
    let service = shouting(TcpListener::bind("127.0.0.1:0").unwrap());
    let forward = format!("0:{service}");
    let target = setup.target();
    let args = ["-v", "-o", "ExitOnForwardFailure=yes", "-R", &forward, &target, "echo up; cat"];
    let mut client = Client::start(setup.alice.ssh_command(&args));
    client.expect("up");
    let said = client.err.text();
    let port = said.split("Allocated port ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let port: u16 = port.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    shouts(tcp(port));
    shouts(tcp(port));
    // Half closed: what comes after the end of our data is not lost.
    let mut half = tcp(port);
    half.write_all(b"all of it").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "ALL OF IT");
    let event = &setup.cluster.audit_of("session.port_forward", "alice");
    assert!(event.iter().any(|event| event["details"]["target"] == "listen:0"), "{event:#?}");
    client.close_stdin();
    client.wait().ok();
    wait_for("the port to be free", || TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn what_starts_after_a_listener_was_asked_for_finds_it() {
    let setup = Setup::shared();
    let service = shouting(TcpListener::bind("127.0.0.1:0").unwrap());
    let (target, mut forwards) = (setup.target(), Vec::new());
    let ports: Vec<u16> = (0..8).map(|_| free_port()).collect();
    for port in &ports {
        forwards.extend(["-R".to_owned(), format!("{port}:{service}")]);
    }
    // The client does not wait for the answers.
    let last = ports.last().unwrap();
    let command = format!("exec 3<>/dev/tcp/127.0.0.1/{last} && echo hello >&3 && head -n 1 <&3");
    let args: Vec<&str> = forwards.iter().map(String::as_str).chain([target.as_str(), &command]).collect();
    assert_eq!(run(setup.alice.ssh_command(&args), b"").ok(), "HELLO\n");
}

#[test]
fn one_forward_that_stalls_stops_no_other() {
    let setup = Setup::shared();
    let flood = TcpListener::bind("127.0.0.1:0").unwrap();
    let flooding = flood.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in flood.incoming().map_while(Result::ok) {
            std::thread::spawn(move || while stream.write_all(&[b'x'; 65_536]).is_ok() {});
        }
    });
    let service = shouting(TcpListener::bind("127.0.0.1:0").unwrap());
    let (back, there) = (free_port(), free_port());
    let (floods, shouted) = (format!("127.0.0.1:{there}:{flooding}"), format!("{back}:{service}"));
    let args = ["-L", &floods, "-R", &shouted, &setup.target(), "echo up; cat"].map(str::to_owned);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut client = Client::start(setup.alice.ssh_command(&args));
    client.expect("up");
    // Nobody reads these; each stands in its windows.
    let stalled: Vec<TcpStream> = (0..4).map(|_| tcp(there)).collect();
    stalled.iter().for_each(|stream| assert_eq!(stream.peek(&mut [0]).unwrap(), 1));
    for _ in 0..4 {
        shouts(tcp(back));
    }
    assert!(client.send("typed\n"));
    client.expect("typed");
    drop(stalled);
    client.close_stdin();
    client.wait();
}

#[test]
fn unix_sockets_go_both_ways_with_the_rights_of_the_login_user() {
    let setup = Setup::shared();
    let (dir, alice) = (place(&setup, "sockets"), &setup.alice);
    let at = |name: &str| dir.join(name).display().to_string();
    let near = UnixListener::bind(dir.join("near")).unwrap();
    std::thread::spawn(move || {
        for stream in near.incoming().map_while(Result::ok) {
            shout(stream.try_clone().unwrap(), stream);
        }
    });
    // On the node a socket that everybody may use, and one of root.
    let far = UnixListener::bind(dir.join("far")).unwrap();
    fs::set_permissions(dir.join("far"), fs::Permissions::from_mode(0o777)).unwrap();
    let _roots = UnixListener::bind(dir.join("roots")).unwrap();
    fs::set_permissions(dir.join("roots"), fs::Permissions::from_mode(0o600)).unwrap();
    std::thread::spawn(move || {
        for stream in far.incoming().map_while(Result::ok) {
            shout(stream.try_clone().unwrap(), stream);
        }
    });
    let back = format!("{}:{}", at("back"), at("near"));
    let there = format!("{}:{}", at("there"), at("far"));
    let closed = format!("{}:{}", at("closed"), at("roots"));
    let options = ["-o", "ExitOnForwardFailure=yes", "-R", &back, "-L", &there, "-L", &closed];
    let target = setup.target();
    let args = [&options[..], &[&target, "echo up; cat"]].concat();
    let mut client = Client::start(alice.ssh_command(&args));
    client.expect("up");
    let meta = fs::symlink_metadata(dir.join("back")).unwrap();
    let uid = tool("id", &["-u", &setup.os.name]).ok();
    assert_eq!((meta.uid().to_string().as_str(), meta.mode() & 0o777), (uid.trim(), 0o600));
    shouts(UnixStream::connect(dir.join("back")).unwrap());
    shouts(UnixStream::connect(dir.join("there")).unwrap());
    let mut refused = UnixStream::connect(dir.join("closed")).unwrap();
    refused.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0);
    wait_for("the reason", || client.err.text().contains("Permission denied"));
    client.close_stdin();
    client.wait();
    wait_for("the socket to be gone", || !dir.join("back").exists());
}

#[test]
fn a_forward_to_a_place_of_root_is_refused() {
    let setup = Setup::shared();
    let socket = setup.cluster.path("root-only.sock").display().to_string();
    for forward in [format!("{socket}:/tmp/none"), "80:127.0.0.1:9".to_owned()] {
        let target = setup.target();
        let args = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", &forward, &target];
        let out = run(setup.alice.ssh_command(&args), b"");
        assert_eq!(out.code, 255, "{out:?}");
        assert!(out.stderr.contains("remote port forwarding failed"), "{out:?}");
        assert!(!Path::new(&socket).exists());
    }
}

#[test]
fn socks_reaches_what_the_node_reaches() {
    let setup = Setup::shared();
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = web.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in web.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nbehind\n");
        }
    });
    let socks = free_port();
    let bind = format!("127.0.0.1:{socks}");
    let mut client = Client::start(setup.alice.ssh_command(&["-D", &bind, &setup.target(), "echo up; cat"]));
    client.expect("up");
    // The name is looked up on the node.
    let proxy = format!("socks5h://{bind}");
    let out = tool("curl", &["-sS", "--max-time", "30", "--proxy", &proxy, &format!("http://localhost:{port}/")]);
    assert_eq!(out.ok(), "behind\n");
    client.close_stdin();
    client.wait();
}

#[test]
fn the_key_agent_comes_along_where_a_role_says_so() {
    let setup = Setup::shared();
    setup
        .cluster
        .add_role("metadata: {name: keys}\nspec:\n  options: {agent_forwarding: true}\n  allow:\n    node_labels: {\"*\": \"*\"}\n    logins: [\"{{internal.logins}}\"]\n")
        .ok();
    let user = setup.somebody_with("access,keys");
    let dir = user.home().join("agent");
    fs::create_dir_all(&dir).unwrap();
    let socket = dir.join("sock");
    let key = dir.join("key").display().to_string();
    let _ = fs::remove_file(&key);
    tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "a key at home", "-f", &key]).ok();
    let mut agent = Command::new("ssh-agent");
    agent.args(["-D", "-a"]).arg(&socket);
    let _agent = Client::start(agent);
    wait_for("the agent", || socket.exists());
    let with_agent = |mut command: Command| {
        command.env("SSH_AUTH_SOCK", &socket);
        command
    };
    let mut add = Command::new("ssh-add");
    add.args(["-q", &key]);
    run(with_agent(add), b"").ok();

    let script = "ssh-add -l; stat -c '%a %U' \"$(dirname \"$SSH_AUTH_SOCK\")\"; echo at $SSH_AUTH_SOCK";
    let out = run(with_agent(user.ssh_command(&["-A", &setup.target(), script])), b"").ok();
    assert!(out.contains("a key at home") && out.contains(&format!("700 {}", setup.os.name)), "{out}");
    let left = out.split("at /").nth(1).map(|path| format!("/{}", path.trim())).unwrap();
    wait_for("the directory to be gone", || !Path::new(&left).parent().unwrap().exists());

    // Without the role the client asks in vain, and the session runs without.
    let other = setup.somebody();
    let out = run(with_agent(other.ssh_command(&["-A", &setup.target(), "echo \"sock=$SSH_AUTH_SOCK\""])), b"");
    assert_eq!(out.ok().trim(), "sock=");
    // And nobody gets it who does not ask.
    let out = run(with_agent(user.ssh_command(&["-a", &setup.target(), "echo \"sock=$SSH_AUTH_SOCK\""])), b"");
    assert_eq!(out.ok().trim(), "sock=");
}

#[test]
fn without_a_role_every_kind_is_refused_and_told_of_once() {
    let setup = Setup::shared();
    let role = format!(
        "metadata: {{name: no-forwards}}\nspec:\n  allow:\n    node_labels: {{\"*\": \"*\"}}\n    logins: [{}]\n",
        setup.os.name
    );
    setup.cluster.add_role(&role).ok();
    let user = setup.somebody_with("no-forwards");
    for forward in ["0:127.0.0.1:9", "/tmp/mezite-none.sock:/tmp/none"] {
        let target = setup.target();
        let args = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", forward, &target];
        let out = run(user.ssh_command(&args), b"");
        assert_eq!(out.code, 255, "{forward}: {out:?}");
        assert!(out.stderr.contains("remote port forwarding failed"), "{out:?}");
    }
    let out = run(user.ssh_command(&["-W", "127.0.0.1:9", &setup.target()]), b"");
    assert!(out.stderr.contains("no role allows port forwarding"), "{out:?}");
    wait_for("three events", || denials(&setup, &user).len() == 3);
    let local = free_port();
    let forward = format!("127.0.0.1:{local}:127.0.0.1:9");
    let mut client = Client::start(user.ssh_command(&["-L", &forward, &setup.target(), "echo up; cat"]));
    client.expect("up");
    for _ in 0..5 {
        let _ = tcp(local).read(&mut [0]);
    }
    wait_for("the reason", || {
        client.err.text().contains("administratively prohibited: no role allows port forwarding")
    });
    client.close_stdin();
    client.wait();
    let denied = denials(&setup, &user);
    assert_eq!(denied.len(), 4, "once for each connection and target: {denied:#?}");
    assert!(denied.iter().all(|event| event["event_code"] == "T4002W"), "{denied:#?}");
    // What a refused forward names is what was asked for, and the proxy tells of it.
    assert!(denied.iter().all(|event| event["component"] == "proxy"), "{denied:#?}");
    let targets: Vec<&str> = denied.iter().filter_map(|event| event["details"]["target"].as_str()).collect();
    assert_eq!(targets, ["127.0.0.1:9", "127.0.0.1:9", "listen:/tmp/mezite-none.sock", "listen:0"]);
}

#[test]
fn whose_sessions_are_watched_forwards_nothing() {
    let setup = Setup::shared();
    let role = format!(
        "metadata: {{name: watched}}\nspec:\n  options:\n    port_forwarding: true\n    require_session_join:\n      - {{name: two, \
         filter: 'contains(user.roles, \"auditor\")', modes: [moderator], count: 1, on_leave: terminate}}\n  allow:\n    \
         node_labels: {{\"*\": \"*\"}}\n    logins: [{}]\n",
        setup.os.name
    );
    setup.cluster.add_role(&role).ok();
    let user = setup.somebody_with("watched");
    let out = run(user.ssh_command(&["-W", "127.0.0.1:9", &setup.target()]), b"");
    assert!(out.stderr.contains("nobody can watch what is forwarded"), "{out:?}");
    let remote = ["-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:9", &setup.target()].map(str::to_owned);
    let remote: Vec<&str> = remote.iter().map(String::as_str).collect();
    assert_eq!(run(user.ssh_command(&remote), b"").code, 255);
    wait_for("the events", || denials(&setup, &user).len() == 2);
}

#[test]
fn a_list_of_targets_is_a_list() {
    let setup = Setup::shared();
    let service = shouting(TcpListener::bind("127.0.0.1:0").unwrap());
    let other = shouting(TcpListener::bind("127.0.0.1:0").unwrap());
    let role = |targets: &str| {
        format!(
            "metadata: {{name: some-targets}}\nspec:\n  options:\n    port_forwarding: true\n    port_forwarding_targets: {targets}\n  \
             allow:\n    node_labels: {{\"*\": \"*\"}}\n    logins: [{}]\n",
            setup.os.name
        )
    };
    setup.cluster.add_role(&role(&format!("[\"{service}\", \"db.internal:5432\"]"))).ok();
    let user = setup.somebody_with("some-targets");
    let (one, two) = (free_port(), free_port());
    let allowed = format!("127.0.0.1:{one}:{service}");
    // The same port by another name is no name of the list.
    let by_name = format!("127.0.0.1:{two}:{other}");
    let target = setup.target();
    let args = ["-L", &allowed, "-L", &by_name, &target, "echo up; cat"];
    let mut client = Client::start(user.ssh_command(&args));
    client.expect("up");
    let mut through = tcp(one);
    shouts(&mut through);
    assert_eq!(tcp(two).read(&mut [0]).unwrap_or(0), 0);
    let reason = format!("no role allows forwarding {other}");
    wait_for("the reason", || client.err.text().contains(&reason));
    wait_for("the event", || denials(&setup, &user).iter().any(|event| event["details"]["target"] == other.as_str()));
    let out =
        run(user.ssh_command(&["-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:9", &setup.target()]), b"");
    assert_eq!(out.code, 255, "targets only: {out:?}");

    // The list becomes another: the forward ends, and the session goes on.
    setup.cluster.add_role(&role("[\"db.internal:5432\"]")).ok();
    assert_eq!(through.read(&mut [0]).unwrap_or(0), 0);
    assert!(client.send("still here\n"));
    client.expect("still here");
    client.close_stdin();
    client.wait();
}

#[test]
fn a_listener_ends_when_its_role_does() {
    let setup = Setup::shared();
    let role = |granted: bool| {
        format!(
            "metadata: {{name: was-forwarding}}\nspec:\n  options: {{port_forwarding: {granted}}}\n  allow:\n    node_labels: \
             {{\"*\": \"*\"}}\n    logins: [{}]\n",
            setup.os.name
        )
    };
    setup.cluster.add_role(&role(true)).ok();
    let user = setup.somebody_with("was-forwarding");
    let service = shouting(TcpListener::bind("127.0.0.1:0").unwrap());
    let port = free_port();
    let forward = format!("{port}:{service}");
    let mut client = Client::start(user.ssh_command(&["-N", "-R", &forward, &setup.target()]));
    wait_for("the listener", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    shouts(tcp(port));
    setup.cluster.add_role(&role(false)).ok();
    let out = client.wait();
    assert!(out.stderr.contains("no role allows port forwarding"), "{out:?}");
    wait_for("the port to be free", || TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn a_connection_without_sessions_is_idle_too() {
    let setup = Setup::shared();
    let role = format!(
        "metadata: {{name: impatient}}\nspec:\n  options: {{port_forwarding: true, client_idle_timeout: 3s}}\n  allow:\n    \
         node_labels: {{\"*\": \"*\"}}\n    logins: [{}]\n",
        setup.os.name
    );
    setup.cluster.add_role(&role).ok();
    let user = setup.somebody_with("impatient");
    let service = shouting(TcpListener::bind("127.0.0.1:0").unwrap());
    let mut client = Client::start(user.ssh_command(&["-W", &service, &setup.target()]));
    assert!(client.send("a"));
    client.expect("A");
    let out = client.wait();
    assert!(out.stderr.contains("nothing was sent for 3s"), "{out:?}");
}
