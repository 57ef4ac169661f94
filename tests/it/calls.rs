//! Every route of the REST API as every sort of caller, from one table. The calls of gRPC have theirs in `crates/auth`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::cluster::{Cluster, USER_PASSWORD};
use crate::rest::call;

/// Who passes: N nobody, U a user, D an auditor, A an administrator. Whoever is not named is refused, by 401 without a
/// login and by 403 with one.
const ROUTES: &[(&str, &str, &str)] = &[
    ("GET", "ping", "NUDA"),
    ("POST", "login", "NUDA"),
    ("POST", "invite", "NUDA"),
    ("GET", "openapi.json", "NUDA"),
    ("GET", "whoami", "UDA"),
    ("POST", "certs", "UDA"),
    ("POST", "password", "UDA"),
    ("GET", "mfa", "UDA"),
    ("POST", "mfa/totp/begin", "UDA"),
    ("POST", "mfa/totp/finish", "UDA"),
    ("POST", "mfa/remove", "UDA"),
    ("GET", "nodes", "UDA"),
    ("GET", "sessions", "UDA"),
    ("GET", "sessions/{id}/recording", "UDA"),
    ("GET", "users", "A"),
    ("POST", "users", "A"),
    ("GET", "roles", "A"),
    ("GET", "audit", "DA"),
    // The last one: it ends the session.
    ("POST", "logout", "UDA"),
];

/// Method and path of every route, from the document that is generated from the code.
fn documented() -> BTreeSet<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/openapi.json");
    let page: Value = serde_json::from_str(&fs::read_to_string(page).unwrap()).unwrap();
    let paths = page["paths"].as_object().unwrap().iter();
    let of = |(path, methods): (&String, &Value)| {
        let path = path.strip_prefix("/v1/webapi/").unwrap().to_owned();
        let methods: Vec<String> = methods.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        methods.into_iter().map(move |method| (method, path.clone())).collect::<Vec<_>>()
    };
    // The document does not name itself.
    paths.flat_map(of).chain([("GET".to_owned(), "openapi.json".to_owned())]).collect()
}

fn token(cluster: &Cluster, name: &str, role: &str) -> String {
    let input = format!("{USER_PASSWORD}\n");
    let create = ["users", "create", name, &format!("--roles={role}"), "--password-stdin"];
    cluster.mezctl_with(&create, input.as_bytes()).ok();
    let login = ["login", &format!("--username={name}"), "--password-stdin"];
    cluster.mezctl_with(&login, input.as_bytes()).ok().trim().to_owned()
}

#[test]
fn every_route_answers_every_caller_as_its_row_says() {
    let rows: BTreeSet<_> = ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    let uncovered: Vec<_> = documented().difference(&rows).cloned().collect();
    println!("routes without a row: {uncovered:?}");
    assert!(uncovered.is_empty() && rows.len() == ROUTES.len(), "{uncovered:?}");
    assert_eq!(documented(), rows);

    let cluster = Cluster::start();
    let input = format!("{}\n", crate::cluster::ADMIN_PASSWORD);
    let admin = cluster.mezctl_with(&["login", "--username=admin", "--password-stdin"], input.as_bytes()).ok();
    let callers = [
        ('N', String::new()),
        ('U', token(&cluster, "una", "access")),
        ('D', token(&cluster, "dora", "auditor")),
        ('A', admin.trim().to_owned()),
    ];
    for (method, path, who) in ROUTES {
        let path = path.replace("{id}", "00000000-0000-4000-8000-000000000000");
        for (caller, token) in &callers {
            let body = if *method == "POST" { "{}" } else { "" };
            let (status, answer) = call(&cluster, token, method, &path, body);
            let refused = match caller {
                'N' => status == 401,
                _ => matches!(status, 401 | 403),
            };
            assert_eq!(refused, !who.contains(*caller), "{method} {path} by {caller}: {status} {answer}");
            assert!(status < 500, "{method} {path} by {caller}: {status} {answer}");
        }
        // What no hub has given is refused, and not taken for nobody.
        if !who.contains('N') {
            let (status, answer) = call(&cluster, &"0".repeat(64), method, &path, "{}");
            // A body that cannot be read is refused before the token is shown to Auth.
            assert!(matches!(status, 401 | 422), "{method} {path} with a token that is none: {status} {answer}");
        }
    }
}
