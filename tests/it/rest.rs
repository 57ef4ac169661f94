//! The REST API as scripts use it: bearer token, JSON, plain HTTP over TLS.

use std::process::Command;

use serde_json::{Value, json};

use crate::cluster::{Cluster, USER_PASSWORD};
use crate::process::run;
use crate::setup::Setup;

/// Status and body of one request.
pub(crate) fn call(cluster: &Cluster, token: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-verify_quiet", "-verify_return_error", "-servername", "localhost"]);
    command.arg("-CAfile").arg(cluster.path("hub/tls/ca.pem")).args(["-connect", &cluster.addr["https"]]);
    let length = body.len();
    let credential = match token {
        "" => String::new(),
        token => format!("Authorization: Bearer {token}\r\n"),
    };
    let request = format!(
        "{method} /v1/webapi/{path} HTTP/1.1\r\nHost: localhost\r\n{credential}Connection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let answer = run(command, request.as_bytes());
    let (head, body) = answer.stdout.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer:?}")))
}

/// F443, F503, F504.
#[test]
fn users_and_roles_are_for_administrators() {
    let setup = Setup::shared();
    let (cluster, user) = (&setup.cluster, setup.somebody());
    let name = format!("--username={}", user.name);
    let login = cluster.mezctl_with(&["login", &name, "--password-stdin"], format!("{USER_PASSWORD}\n").as_bytes());
    let token = login.ok();
    let new = json!({ "username": "rest", "roles": ["viewer"], "traits": { "logins": ["ubuntu"] } }).to_string();
    for (method, path, body) in [("POST", "users", new.as_str()), ("POST", "users", "?"), ("GET", "roles", "")] {
        let (status, answer) = call(cluster, token.trim(), method, path, body);
        assert_eq!((status, &answer["error"]["code"]), (403, &json!("denied")), "{method} {path} {body}");
    }
    assert_eq!(cluster.audit_of("authz.denied", &user.name).len(), 3);

    let (status, made) = call(cluster, &cluster.admin_token, "POST", "users", &new);
    assert_eq!((status, made["invite_token"].as_str().map(str::len)), (200, Some(64)), "{made}");
    assert!(cluster.mezctl(&["users", "get", "rest"]).ok().contains("ubuntu"));
    assert_eq!(call(cluster, &cluster.admin_token, "POST", "users", &new).0, 409);
    assert_eq!(call(cluster, &cluster.admin_token, "POST", "users", "{}").0, 422);
    let (_, roles) = call(cluster, &cluster.admin_token, "GET", "roles", "");
    let shown: Value = serde_json::from_str(&cluster.mezctl(&["roles", "get", "admin", "--format=json"]).ok()).unwrap();
    assert!(roles["roles"].as_array().unwrap().contains(&shown), "{roles}");
}
