//! Runs every file of `tests/access`: roles, an identity, a target, and the answer.

use std::collections::BTreeMap;
use std::path::Path;

use mezite_core::audit::Event;
use mezite_core::identity::Since;
use mezite_core::kind::role::{BUILT_IN, RecordExec, built_in};
use mezite_core::kind::user::Traits;
use mezite_core::kind::{RoleSpec, parse_role};
use mezite_core::lock::Lock;
use mezite_core::rbac::{Factor, Permit, Policy, Proof, Question, Reason, Roles, Target, check, explain};
use mezite_core::{Identity, Labels, duration, when};
use serde::Deserialize;
use serde_json::{Value, json};

const NODE_ID: &str = "a1b2c3d4-e5f6-7890-abcd-ef1234567890";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Corpus {
    #[expect(dead_code, reason = "says what the file is about")]
    about: String,
    #[serde(default)]
    built_in: bool,
    #[serde(default)]
    traits: Traits,
    roles: Vec<Value>,
    #[serde(default)]
    stored_roles: BTreeMap<String, RoleSpec>,
    cases: Vec<Case>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Case {
    roles: Vec<String>,
    #[serde(default)]
    since: Vec<String>,
    since_traits: Option<Traits>,
    principals: Option<Vec<String>>,
    labels: Labels,
    login: Option<String>,
    #[serde(default)]
    locks: Vec<Value>,
    #[serde(default)]
    proven: bool,
    #[serde(default)]
    pinned: bool,
    allow: Option<BTreeMap<String, Value>>,
    deny: Option<Vec<String>>,
    code: Option<String>,
    says: Option<String>,
}

#[test]
fn corpus() {
    let mut count = 0;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/access")).unwrap() {
        let path = entry.unwrap().path();
        let corpus: Corpus = serde_json::from_slice(&std::fs::read(&path).unwrap())
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut roles: Roles = corpus.roles.iter().map(|role| parse_role(role).unwrap()).collect();
        roles.extend(corpus.stored_roles.clone());
        if corpus.built_in {
            roles.extend(BUILT_IN.map(|name| (name.to_owned(), built_in(name).unwrap())));
        }
        for (i, case) in corpus.cases.iter().enumerate() {
            run(&format!("{} case {i}: {case:?}", path.display()), case, &corpus.traits, &roles);
            count += 1;
        }
    }
    assert!(count >= 150, "{count} cases");
}

fn run(what: &str, case: &Case, traits: &Traits, roles: &Roles) {
    let identity = Identity {
        user_id: "id".into(),
        user: "alice".into(),
        cluster: "example".into(),
        roles: case.roles.clone(),
        traits: traits.clone(),
        principals: case.principals.clone().unwrap_or_else(|| case.login.iter().cloned().collect()),
        pinned: case.pinned,
        valid_after: 0,
        since: Since { roles: case.since.clone(), traits: case.since_traits.clone() },
    };
    let locks: Vec<Lock> = case.locks.iter().map(|spec| Lock::from_stored("lock", spec)).collect();
    let target = Target { node_id: NODE_ID, name: "web-01", labels: &case.labels };
    let now = when::parse("2026-03-24T15:00:00Z").unwrap();
    let proof = if case.proven { Proof::Proven(Factor::Totp) } else { Proof::Nothing };
    let question =
        Question { identity: &identity, roles, target, login: case.login.as_deref(), locks: &locks, proof, now };

    let answer = check(&question);
    assert_eq!(explain(&question).answer, answer, "{what}");
    match (&answer, &case.allow, &case.deny) {
        (Ok(permit), Some(wanted), None) => {
            assert_eq!((permit.user(), permit.node_id(), permit.login()), ("alice", NODE_ID, case.login.as_deref()));
            for (field, value) in wanted {
                assert_eq!(&shown(permit, field), value, "{what}: {field}");
            }
        }
        (Err(denied), None, Some(wanted)) => {
            let tags: Vec<String> = denied.reasons().iter().map(tag).collect();
            assert_eq!(&tags, wanted, "{what}: {denied}");
            if let Some(code) = &case.code {
                assert_eq!(denied.event_type().code(), code, "{what}");
                assert_eq!(Event::new(denied.event_type(), "x", now).event_type, "access.denied");
            }
            let says = case.says.as_deref().unwrap_or_default();
            assert!(denied.to_string().contains(says), "{what}: {denied}");
        }
        _ => panic!("{what}: got {answer:?}"),
    }
    if case.login.is_none() && case.locks.is_empty() {
        let reasons = answer.as_ref().err().map(|denied| denied.reasons()).unwrap_or_default();
        let visible = reasons.iter().all(|reason| {
            use Reason::{FactorNeeded, ModerationFailed, NotPinned, Unsupported};
            matches!(reason, Unsupported { .. } | NotPinned { .. } | FactorNeeded { .. } | ModerationFailed { .. })
        });
        assert_eq!(Policy::new(&identity, roles).sees(target), visible, "{what}");
    }
}

fn tag(reason: &Reason) -> String {
    let value = serde_json::to_value(reason).unwrap();
    value.get("reason").and_then(Value::as_str).unwrap().to_owned()
}

fn shown(permit: &Permit, field: &str) -> Value {
    match field {
        "roles" => json!(permit.roles()),
        "max_session_ttl" => json!(duration::print(permit.max_session_ttl())),
        "client_idle_timeout" => json!(permit.client_idle_timeout().map(duration::print)),
        "max_sessions" => json!(permit.max_sessions()),
        "moderation" => json!(permit.moderation().iter().map(ToString::to_string).collect::<Vec<_>>()),
        "port_forwarding" => json!(permit.port_forwarding()),
        "file_copy" => json!(permit.file_copy()),
        "agent_forwarding" => json!(permit.agent_forwarding()),
        "record" => json!(permit.recording().on),
        "record_strict" => json!(permit.recording().strict),
        "record_exec" => json!(if permit.recording().exec == RecordExec::Full { "full" } else { "limited" }),
        "record_input" => json!(permit.recording().input),
        other => panic!("no field {other}"),
    }
}

#[test]
fn a_grant_only_narrows() {
    let identity = Identity {
        user: "alice".into(),
        roles: vec!["access".into()],
        traits: Traits::from([("logins".into(), vec!["u".into()])]),
        ..Identity::default()
    };
    let roles = Roles::from([("access".to_owned(), built_in("access").unwrap())]);
    let target = Target { node_id: NODE_ID, name: "web-01", labels: &Labels::new() };
    let now = time::OffsetDateTime::UNIX_EPOCH;
    let question =
        Question { identity: &identity, roles: &roles, target, login: None, locks: &[], proof: Proof::Nothing, now };
    let permit = check(&question).unwrap();
    assert!(permit.clone().narrowed(true).port_forwarding());
    assert!(!permit.clone().narrowed(false).port_forwarding());
    assert!(!permit.narrowed(false).narrowed(true).port_forwarding());
}
