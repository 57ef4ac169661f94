//! The node list of a user with 20 roles over 10,000 nodes, as a client fetches it: `cargo bench -p mezite-auth --bench listing`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark fails by panicking and tells by printing")]

use std::path::Path;
use std::time::{Duration, Instant};

use mezite_auth::{AuthConfig, FirstAdmin, Running, start};
use mezite_core::audit::chain::ChainKey;
use mezite_core::kind::{Node, NodeSpec, Role, RoleSpec};
use mezite_net::clock;
use mezite_net::dial::Dialer;
use mezite_net::rpc::{AUTHORIZATION, bearer, channel};
use mezite_net::tls::{ALPN_H2, LiveRoots, Trust, client_config};
use mezite_proto::v1::auth_client::AuthClient;
use mezite_proto::v1::{AuthenticateLocalRequest, CreateUserRequest, ListObjectsRequest};
use mezite_store::{AuditKeys, Expect, Options, Store};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Channel;
use zeroize::Zeroizing;

const NODES: usize = 10_000;
const ROLES: usize = 20;
const ROUNDS: usize = 21;
const PAGE: u32 = 1000;
const PASSWORD: &str = "correct horse battery";

fn config(dir: &Path) -> AuthConfig {
    AuthConfig {
        cluster_name: "example".into(),
        data_dir: dir.into(),
        database: dir.join("mezhub.db"),
        listen_addr: ([127, 0, 0, 1], 0).into(),
        names: Vec::new(),
        proxy_addr: String::new(),
        ca_key_passphrase: None,
        audit_hmac_key: Some(Zeroizing::new("a key of the audit chain".into())),
        audit_hmac_keys_former: Vec::new(),
        first_admin: FirstAdmin::Password(Zeroizing::new(PASSWORD.into())),
        password_cost: 4,
    }
}

/// Fills the database: half of the nodes are in reach of one of the roles, and each role knows a twentieth of them.
async fn fill(dir: &Path) {
    let audit_keys = AuditKeys { current: ChainKey::new(b"a key of the audit chain").unwrap(), former: Vec::new() };
    let store = Store::open(Options { path: dir.join("mezhub.db"), readers: 1, audit_keys }).await.unwrap();
    let mut tx = store.begin(clock::now()).await.unwrap();
    for i in 0..ROLES {
        let spec = json!({
            "allow": { "node_labels": { "team": format!("team-{i}"), "env": ["prod", "^st.*$"] }, "logins": ["{{internal.logins}}"] },
            "deny": { "node_labels": { "sensitivity": "restricted" } },
        });
        let spec: RoleSpec = serde_json::from_value(spec).unwrap();
        tx.put::<Role>(&format!("team-{i}"), &spec, Expect::Absent).await.unwrap();
    }
    for i in 0..NODES {
        let labels = json!({ "team": format!("team-{}", i % (2 * ROLES)), "env": if i % 3 == 0 { "prod" } else { "stage" }, "os": "linux" });
        let name = format!("node-{i:05}");
        let spec = NodeSpec {
            node_id: clock::uuid(),
            hostname: name.clone(),
            labels: serde_json::from_value(labels).unwrap(),
            version: "0.1.0".into(),
            ..NodeSpec::default()
        };
        tx.put::<Node>(&name, &spec, Expect::Absent).await.unwrap();
    }
    tx.commit().await.unwrap();
    store.close().await;
}

fn client(running: &Running) -> AuthClient<Channel> {
    let roots = LiveRoots::from_pem(&running.tls_ca_pem).unwrap();
    let tls = client_config(Trust::Roots(roots, None), None, ALPN_H2, true).unwrap();
    AuthClient::new(channel(Dialer::new(vec![running.addr.to_string()], tls).unwrap()))
}

async fn login(client: &mut AuthClient<Channel>, name: &str) -> String {
    let request = AuthenticateLocalRequest { username: name.into(), password: PASSWORD.into(), otp: String::new() };
    client.authenticate_local(request).await.unwrap().into_inner().session_id
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(AUTHORIZATION, bearer(token).unwrap());
    request
}

async fn list(client: &mut AuthClient<Channel>, token: &str) -> usize {
    let (mut page_token, mut seen) = (String::new(), 0);
    loop {
        let request = ListObjectsRequest { kind: "node".into(), page_token, page_size: PAGE };
        let reply = client.list_objects(with(token, request)).await.unwrap().into_inner();
        seen += reply.objects.len();
        page_token = reply.next_page_token;
        if page_token.is_empty() {
            return seen;
        }
    }
}

#[tokio::main]
async fn main() {
    mezite_net::tls::install_provider();
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let stop = CancellationToken::new();
    let running = start(config(dir.path()), stop.clone()).await.unwrap();
    let mut client = client(&running);
    let admin = login(&mut client, "admin").await;
    let roles: Vec<String> = (0..ROLES).map(|i| format!("team-{i}")).collect();
    let spec = json!({ "roles": roles, "traits": { "logins": ["ubuntu"] } }).to_string().into_bytes();
    let request = CreateUserRequest { name: "alice".into(), spec, password: PASSWORD.into() };
    client.create_user(with(&admin, request)).await.unwrap();
    let alice = login(&mut client, "alice").await;
    for (who, token, expected) in [("user with 20 roles", &alice, NODES / 2), ("administrator", &admin, NODES)] {
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            assert_eq!(list(&mut client, token).await, expected);
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        let millis = |at: usize| times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
        println!(
            "{who}: {expected} of {NODES} nodes in {:.1} ms (median of {ROUNDS}; {:.1} to {:.1})",
            millis(ROUNDS / 2),
            millis(0),
            millis(ROUNDS - 1)
        );
    }
    stop.cancel();
    running.stopped().await;
}
