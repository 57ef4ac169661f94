//! Decisions per second with 1, 10 and 100 roles: `cargo bench -p mezite-core --bench decide`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark fails by panicking and tells by printing")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use mezite_core::kind::RoleSpec;
use mezite_core::rbac::{Policy, Proof, Question, Roles, Target, check};
use mezite_core::{Identity, Labels};
use serde_json::json;
use time::OffsetDateTime;

/// How long each figure is measured.
const SPAN: Duration = Duration::from_secs(2);

/// Roles of the usual sorts: exact labels, a list of values, a pattern, a template, and a deny rule in every tenth.
fn roles(count: usize) -> Roles {
    let spec = |i: usize| {
        let node_labels = match i % 4 {
            0 => json!({ "env": "prod", "team": format!("team-{i}") }),
            1 => json!({ "env": ["test", "stage"], "team": format!("team-{i}") }),
            2 => json!({ "host": format!("^web-{i}-[0-9]+$") }),
            _ => json!({ "team": "{{external.team}}" }),
        };
        let deny = match i % 10 {
            9 => json!({ "node_labels": { "sensitivity": "restricted" } }),
            _ => json!({}),
        };
        let allow = json!({ "node_labels": node_labels, "logins": ["{{internal.logins}}"] });
        let role = json!({ "allow": allow, "deny": deny });
        serde_json::from_value::<RoleSpec>(role).unwrap()
    };
    (0..count).map(|i| (format!("role-{i}"), spec(i))).collect()
}

fn identity(roles: &Roles) -> Identity {
    let traits = json!({ "logins": ["ubuntu", "alice"], "team": ["team-0", "team-3"] });
    Identity {
        user: "alice".into(),
        user_id: "u1".into(),
        roles: roles.keys().cloned().collect(),
        traits: serde_json::from_value(traits).unwrap(),
        principals: vec!["alice".into(), "ubuntu".into()],
        ..Identity::default()
    }
}

/// How often `work` runs in a second.
fn rate(mut work: impl FnMut()) -> f64 {
    let (start, mut runs) = (Instant::now(), 0_u32);
    while start.elapsed() < SPAN {
        for _ in 0..64 {
            work();
        }
        runs += 64;
    }
    f64::from(runs) / start.elapsed().as_secs_f64()
}

fn main() {
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let labels =
        Labels::from([label("env", "prod"), label("team", "team-0"), label("host", "web-2-17"), label("os", "linux")]);
    println!("| roles | decisions/s, rules read anew | nodes looked at/s, rules ready |\n| ---: | ---: | ---: |");
    for count in [1, 10, 100] {
        let roles = roles(count);
        let identity = identity(&roles);
        let target = Target { node_id: "n1", name: "web-01", labels: &labels };
        let question = Question {
            identity: &identity,
            roles: &roles,
            target,
            login: Some("ubuntu"),
            locks: &[],
            proof: Proof::Nothing,
            now: OffsetDateTime::UNIX_EPOCH,
        };
        assert!(check(&question).is_ok());
        let decided = rate(|| drop(black_box(check(black_box(&question)))));
        let policy = Policy::new(&identity, &roles);
        let seen = rate(|| assert!(black_box(&policy).sees(black_box(target))));
        println!("| {count} | {decided:.0} | {seen:.0} |");
    }
}
