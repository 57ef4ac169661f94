//! Role documents: what is accepted, what is refused and in which words, and what is printed.

use mezite_core::kind::role::{BUILT_IN, built_in};
use mezite_core::kind::user::Traits;
use mezite_core::kind::{Kind, Role, parse_role, role_document};
use mezite_core::rbac::{MAX_CERT_TTL, Roles, certificate_flags, certificate_ttl, logins_for};
use serde_json::{Value, json};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn role(spec: Value) -> Value {
    json!({"kind": "role", "version": "v1", "metadata": {"name": "r"}, "spec": spec})
}

#[test]
fn the_documented_role_is_read_and_printed_back() {
    let document = json!({
        "kind": "role",
        "version": "v1",
        "metadata": {"name": "ssh-sensitive", "description": "for the sensitive machines"},
        "spec": {
            "options": {
                "require_session_mfa": "totp",
                "require_session_join": [{
                    "name": "require-auditor-observer",
                    "filter": "contains(user.roles, \"auditor\")",
                    "modes": ["observer"],
                    "count": 1,
                    "on_leave": "terminate"
                }]
            },
            "allow": {
                "node_labels": {"env": "production", "sensitivity": "high"}, "logins": ["root"],
                "join_sessions": [{"name": "each other", "roles": ["ssh-sensitive"], "kinds": ["ssh"], "modes": ["peer"]}]
            },
            "deny": {"join_sessions": [{"roles": ["*"], "modes": ["moderator"]}]}
        }
    });
    let (name, spec) = parse_role(&document).unwrap();
    assert_eq!(role_document(&name, &spec), document);
    let stored: Value = serde_json::to_value(&spec).unwrap();
    assert_eq!(serde_json::from_value::<mezite_core::kind::RoleSpec>(stored).unwrap(), spec);
}

#[test]
fn every_documented_option_is_kept() {
    let options = json!({
        "max_session_ttl": "12h", "client_idle_timeout": "10m", "max_sessions": 3, "max_connections": 2,
        "port_forwarding": true, "port_forwarding_targets": ["db:5432"], "port_forwarding_listen": ["*"], "file_copy": false, "agent_forwarding": true, "permit_x11": false, "pin_source_ip": true,
        "require_session_mfa": "hardware_key", "session_mfa_reuse": "5m", "device_trust_mode": "required", "record": "best-effort",
        "record_exec": "full",
        "record_input": false, "create_host_user": true
    });
    let (name, spec) = parse_role(&role(json!({"options": options}))).unwrap();
    assert_eq!(role_document(&name, &spec).pointer("/spec/options"), Some(&options));
}

#[test]
fn the_switch_for_recording_is_printed_as_what_it_means() {
    for (written, meant) in
        [(json!(true), "strict"), (json!("on"), "strict"), (json!(false), "off"), (json!("best_effort"), "best-effort")]
    {
        let (name, spec) = parse_role(&role(json!({"options": {"record": written}}))).unwrap();
        assert_eq!(role_document(&name, &spec).pointer("/spec/options/record"), Some(&json!(meant)));
    }
}

#[test]
fn the_older_generation_becomes_the_newer() {
    let older = role(json!({"allow": {
        "request": {"roles": ["ssh-production"], "max_duration": "4h"},
        "review_requests": {"roles": ["ssh-production"]}
    }}));
    let newer = role(json!({"allow": {
        "request_roles": ["ssh-production"], "request_max_duration": "4h", "review_roles": ["ssh-production"]
    }}));
    assert_eq!(parse_role(&older).unwrap(), parse_role(&newer).unwrap());
    let bare = json!({"metadata": {"name": "r"}, "spec": {}});
    let (name, spec) = parse_role(&bare).unwrap();
    assert_eq!(role_document(&name, &spec).get("version"), Some(&json!("v1")));
}

#[test]
fn refusals_name_the_field_and_the_way_out() {
    let deep = format!("^{}{}$", "(".repeat(40), ")".repeat(40));
    let cases = [
        (
            json!({"options": {"port_fowarding": true}}),
            "spec.options.port_fowarding: unknown field, did you mean port_forwarding?",
        ),
        (json!({"option": {}}), "spec.option: unknown field, did you mean options?"),
        (json!({"zzz": {}}), "spec.zzz: unknown field; known here: description, options, allow, deny"),
        (json!({"description": "x"}), "spec.description: unknown field; write metadata.description"),
        (json!({"deny": null}), "spec.deny: is empty; give it a value or leave it out"),
        (
            json!({"allow": {"node_labels": {"env": null}}}),
            "spec.allow.node_labels.env: is empty; give it a value or leave it out",
        ),
        (
            json!({"allow": {"node_labels": {"env": 1}}}),
            "spec.allow.node_labels.env: invalid type: integer `1`, expected a text or a list of texts (put quotes around numbers and true or false)",
        ),
        (json!({"allow": {"node_labels": {"env": []}}}), "spec.allow.node_labels.env: needs 1 to 64 values"),
        (
            json!({"allow": {"node_labels": {"*": "prod"}}}),
            "spec.allow.node_labels.*: the key * takes the value * only",
        ),
        (
            json!({"allow": {"node_labels": {"env": "^prod"}}}),
            "spec.allow.node_labels.env: a regular expression is ^…$ of at most 256 bytes",
        ),
        (
            json!({"allow": {"node_labels": {"env": "^a)|(b$"}}}),
            "spec.allow.node_labels.env: is not a regular expression: error: unopened group",
        ),
        (
            json!({"allow": {"node_labels": {"env": "^\\w{5000}$"}}}),
            "spec.allow.node_labels.env: is not a regular expression: Compiled regex exceeds size limit of 1048576 bytes.",
        ),
        (
            json!({"deny": {"node_labels": {"env": deep}}}),
            "spec.deny.node_labels.env: is not a regular expression: error: exceed the maximum number of nested parentheses/brackets (16)",
        ),
        (
            json!({"deny": {"node_labels": {"env": "{{user.nme}}"}}}),
            "spec.deny.node_labels.env: unknown variable \"user.nme\"; did you mean user.name?",
        ),
        (
            json!({"allow": {"node_labels": {"env": "^{{external.x}}$"}}}),
            "spec.allow.node_labels.env: a regular expression may not hold a variable",
        ),
        (
            json!({"allow": {"logins": ["*"]}}),
            "spec.allow.logins.[0]: must not hold '*'; only letters, digits and . _ @ $ -",
        ),
        (
            json!({"allow": {"logins": ["ok", "-oProxyCommand=x"]}}),
            "spec.allow.logins.[1]: must not hold '='; only letters, digits and . _ @ $ -",
        ),
        (json!({"allow": {"logins": ["-x"]}}), "spec.allow.logins.[0]: must start with a letter, a digit or _"),
        (json!({"allow": {"logins": ["0"]}}), "spec.allow.logins.[0]: must not be a number"),
        (
            json!({"allow": {"logins": ["a{{user.name}}{{user.name}}"]}}),
            "spec.allow.logins.[0]: may hold one variable only",
        ),
        (json!({"allow": {"logins": "root"}}), "spec.allow.logins: invalid type: string \"root\", expected a sequence"),
        (json!({"allow": {"request": {"role": []}}}), "spec.allow.request.role: unknown field"),
        (
            json!({"allow": {"request": {"roles": []}, "request_roles": []}}),
            "spec.allow.request_roles: is also given as request.roles",
        ),
        (
            json!({"options": {"max_session_ttl": "soon"}}),
            "spec.options.max_session_ttl: \"soon\" is not a duration such as 12h, 30m or 1h30m",
        ),
        (
            json!({"options": {"max_session_ttl": 3600}}),
            "spec.options.max_session_ttl: invalid type: integer `3600`, expected a string",
        ),
        (json!({"options": {"max_session_ttl": "0s"}}), "spec.options.max_session_ttl: must be between 1s and 720h"),
        (
            json!({"options": {"max_sessions": 0}}),
            "spec.options.max_sessions: must be at least 1; leave it out for no limit",
        ),
        (
            json!({"options": {"record": "strct"}}),
            "spec.options.record: \"strct\" is not one of strict, best-effort, off; did you mean strict?",
        ),
        (json!({"options": {"record": 1}}), "spec.options.record: must be strict, best-effort or off"),
        (
            json!({"options": {"permit_x11": true}}),
            "spec.options.permit_x11: X11 forwarding is not offered; leave it out",
        ),
        (
            json!({"options": {"port_forwarding_targets": ["db:5432"]}}),
            "spec.options.port_forwarding_targets: needs port_forwarding: true",
        ),
        (
            json!({"options": {"port_forwarding": true, "port_forwarding_targets": []}}),
            "spec.options.port_forwarding_targets: is empty; leave it out for everything, or port_forwarding for nothing",
        ),
        (
            json!({"options": {"port_forwarding": true, "port_forwarding_targets": ["db:5432", "10.1.0.0/8:22"]}}),
            "spec.options.port_forwarding_targets.[1]: \"10.1.0.0/8\" has bits beyond its prefix; write 10.0.0.0/8",
        ),
        (
            json!({"options": {"port_forwarding": true, "port_forwarding_listen": ["127.0.0.1:80"]}}),
            "spec.options.port_forwarding_listen.[0]: \"127.0.0.1:80\" is no port: 1 to 65535, or *",
        ),
        (json!({"options": {"session_mfa_reuse": "5m"}}), "spec.options.session_mfa_reuse: needs require_session_mfa"),
        (
            json!({"options": {"require_session_mfa": "totp", "session_mfa_reuse": "2h"}}),
            "spec.options.session_mfa_reuse: must be between 1s and 1h",
        ),
        (
            json!({"options": {"require_session_mfa": "totpp"}}),
            "spec.options.require_session_mfa: \"totpp\" is not one of off, totp, webauthn, hardware-key, hardware_key; did you mean totp?",
        ),
        (
            json!({"options": {"require_session_mfa": "sms"}}),
            "spec.options.require_session_mfa: \"sms\" is not one of off, totp, webauthn, hardware-key, hardware_key",
        ),
        (
            json!({"options": {"require_session_join": [{"name": "x"}]}}),
            "spec.options.require_session_join.[0].filter: is missing",
        ),
        (
            json!({"options": {"require_session_join": [{"name": "x", "filter": " ", "modes": ["peer"], "count": 1, "on_leave": "pause"}]}}),
            "spec.options.require_session_join.[0].filter: is empty; an example: contains(user.roles, \"auditor\")",
        ),
        (
            json!({"options": {"require_session_join": [{"name": "x", "filter": "f", "modes": ["pear"], "count": 1, "on_leave": "pause"}]}}),
            "spec.options.require_session_join.[0].modes.[0]: \"pear\" is not one of observer, moderator, peer; did you mean peer?",
        ),
        (
            json!({"options": {"require_session_join": [{"name": "x", "filter": "contains(user.role, \"a\")", "modes": ["peer"], "count": 1, "on_leave": "pause"}]}}),
            "spec.options.require_session_join.[0].filter: line 1, column 10: \"user.role\" is not known; did you mean user.roles?",
        ),
        (
            json!({"allow": {"join_sessions": [{"roles": ["*"], "modes": []}]}}),
            "spec.allow.join_sessions.[0].modes: is empty; known: observer, moderator, peer",
        ),
        (
            json!({"options": {"require_session_join": [{"name": "x", "filter": "f", "modes": ["peer"], "count": 0, "on_leave": "pause"}]}}),
            "spec.options.require_session_join.[0].count: must be between 1 and 256",
        ),
        (json!([]), "spec: must be a map"),
    ];
    for (spec, message) in cases {
        assert_eq!(parse_role(&role(spec)).unwrap_err().to_string(), message);
    }
}

#[test]
fn the_frame_of_the_document_is_checked() {
    let spec = json!({});
    for (document, message) in [
        (
            json!({"metadata": {"name": "R"}, "spec": spec}),
            "metadata.name: must not hold 'R'; only lower-case letters, digits and . _ -",
        ),
        (json!({"metadata": {"name": ""}, "spec": spec}), "metadata.name: is empty"),
        (
            json!({"metadata": {"name": "r", "description": "a\u{1b}[2J"}, "spec": spec}),
            "metadata.description: must not hold '\\u{1b}'",
        ),
        (
            json!({"metadata": {"name": "r", "lables": {}}, "spec": spec}),
            "metadata.lables: unknown field; known here: name, description",
        ),
        (json!({"kind": "user", "metadata": {"name": "r"}, "spec": spec}), "kind: must be role"),
        (json!({"version": "v2", "metadata": {"name": "r"}, "spec": spec}), "version: must be v1"),
        (json!({"metadata": {"name": "r"}}), "spec: is missing"),
    ] {
        assert_eq!(parse_role(&document).unwrap_err().to_string(), message);
    }
    assert!(parse_role(&json!("role")).is_err());
    assert!(parse_role(&Value::Null).is_err());
    let long = role(json!({"allow": {"logins": "x".repeat(1 << 20)}}));
    assert!(parse_role(&long).unwrap_err().to_string().len() < 1000);
}

#[test]
fn built_in_roles_are_valid_and_fill_their_columns() {
    for name in BUILT_IN {
        let spec = built_in(name).unwrap();
        Role::validate(name, &spec).unwrap();
        assert_eq!(parse_role(&role_document(name, &spec)).unwrap(), (name.to_owned(), spec.clone()));
        assert_eq!(Role::columns(name, &spec).len(), Role::COLUMNS.len());
    }
    assert_eq!(built_in("root"), None);
    let access = built_in("access").unwrap();
    let columns = [json!("access"), json!(["{{internal.logins}}"]), json!({"*": "*"}), json!("12h")];
    assert_eq!(Role::columns("access", &access), columns);
}

fn roles(list: &[(&str, Value)]) -> Roles {
    list.iter()
        .map(|(name, spec)| {
            let document = json!({"metadata": {"name": name}, "spec": spec});
            parse_role(&document).unwrap()
        })
        .collect()
}

#[test]
fn certificates_name_allowed_logins_less_denied_ones() {
    let roles = roles(&[
        ("a", json!({"allow": {"logins": ["{{internal.logins}}", "root", "ops"]}})),
        ("b", json!({"allow": {"logins": ["{{user.name}}"]}, "deny": {"logins": ["root"]}})),
        ("none", json!({"deny": {"logins": ["*"]}})),
    ]);
    let traits = Traits::from([("logins".into(), vec!["ubuntu".into(), "ops".into(), "a,b".into(), "*".into()])]);
    let logins = |held: &[&str]| {
        let held: Vec<String> = held.iter().map(|role| (*role).to_owned()).collect();
        logins_for("alice", &traits, &held, &roles)
    };
    assert_eq!(logins(&["a"]).unwrap(), ["ops", "root", "ubuntu"]);
    assert_eq!(logins(&["b", "a"]).unwrap(), ["alice", "ops", "ubuntu"]);
    assert!(logins(&["a", "none"]).unwrap().is_empty());
    assert!(logins(&[]).unwrap().is_empty());
    assert!(logins(&["a", "gone"]).is_err());
    let many = Traits::from([("logins".into(), (0..300).map(|i| format!("u{i}")).collect())]);
    assert!(logins_for("alice", &many, &["a".into()], &roles).is_err());
}

#[test]
fn certificate_validity_is_capped_by_role_and_by_a_day() {
    let roles = roles(&[
        ("plain", json!({})),
        ("short", json!({"options": {"max_session_ttl": "1h", "port_forwarding": true}})),
        ("long", json!({"options": {"max_session_ttl": "72h"}})),
    ]);
    let ttl = |held: &[&str], requested: Option<u32>| {
        let held: Vec<String> = held.iter().map(|role| (*role).to_owned()).collect();
        certificate_ttl(&held, &roles, requested.map(|h| h * HOUR), 12 * HOUR).ok()
    };
    assert_eq!(ttl(&["plain"], None), Some(12 * HOUR));
    assert_eq!(ttl(&["plain"], Some(24)), Some(24 * HOUR));
    assert_eq!(ttl(&["long"], Some(48)), Some(MAX_CERT_TTL));
    assert_eq!(ttl(&["plain", "short", "long"], Some(24)), Some(HOUR));
    assert_eq!(ttl(&["gone"], None), None);
    assert!(certificate_flags(&["plain".into(), "short".into()], &roles).unwrap().port_forwarding);
    assert!(!certificate_flags(&["plain".into()], &roles).unwrap().port_forwarding);
}
