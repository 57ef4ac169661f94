//! What holds for every set of roles: a deny never allows, order does not matter, an error never allows, an empty trait
//! matches nothing.

use mezite_core::identity::Since;
use mezite_core::kind::RoleSpec;
use mezite_core::kind::role::{JoinMode, JoinRequirement, OnLeave, SessionMfa};
use mezite_core::kind::user::Traits;
use mezite_core::rbac::selector::Selector;
use mezite_core::rbac::{Denied, Factor, Permit, Proof, Question, Roles, Target, check};
use mezite_core::{Identity, Labels};
use proptest::prelude::*;
use proptest::sample::select;
use time::OffsetDateTime;

const LOGINS: [&str; 5] = ["root", "dev", "{{internal.logins}}", "{{external.none}}", "svc-{{external.team}}"];

fn selector() -> impl Strategy<Value = Selector> {
    let value = select(vec!["prod", "test", "*", "^p.*$", "{{external.team}}", "{{external.none}}"]);
    prop_oneof![
        1 => Just(Selector::from([("*".to_owned(), "*".into())])),
        4 => prop::collection::btree_map(select(vec!["env".to_owned(), "team".to_owned()]), value.prop_map(Into::into), 0..3),
    ]
}

fn side() -> impl Strategy<Value = mezite_core::kind::role::Conditions> {
    let logins = prop::collection::vec(select(LOGINS.map(str::to_owned).to_vec()), 0..3);
    (selector(), logins).prop_map(|(node_labels, logins)| mezite_core::kind::role::Conditions {
        node_labels,
        logins,
        ..Default::default()
    })
}

fn role() -> impl Strategy<Value = RoleSpec> {
    // Denies are rare, or nothing would be allowed.
    let mfa = prop_oneof![8 => Just(None), 1 => Just(Some(SessionMfa::Totp)), 1 => Just(Some(SessionMfa::Off))];
    (side(), prop::option::weighted(0.2, side()), mfa).prop_map(|(allow, deny, mfa)| {
        let mut spec = RoleSpec { allow, deny: deny.unwrap_or_default(), ..RoleSpec::default() };
        spec.options.require_session_mfa = mfa;
        spec
    })
}

fn labels() -> impl Strategy<Value = Labels> {
    let value = select(vec!["prod".to_owned(), "test".to_owned(), "web".to_owned(), String::new()]);
    prop::collection::btree_map(select(vec!["env".to_owned(), "team".to_owned()]), value, 0..3)
}

fn login() -> impl Strategy<Value = String> {
    select(vec!["root".to_owned(), "dev".to_owned(), "ada".to_owned(), "svc-web".to_owned(), "svc-".to_owned()])
}

fn traits(names: &[(&str, &[&str])]) -> Traits {
    names.iter().map(|(name, values)| ((*name).to_owned(), values.iter().map(|v| (*v).to_owned()).collect())).collect()
}

fn decide(held: &[RoleSpec], traits: Traits, labels: &Labels, login: &str, proof: Proof) -> Result<Permit, Denied> {
    let names: Vec<String> = (0..held.len()).map(|i| format!("r{i}")).collect();
    let roles: Roles = names.iter().cloned().zip(held.iter().cloned()).collect();
    ask(&names, &roles, traits, labels, login, proof)
}

fn ask(
    held: &[String],
    roles: &Roles,
    traits: Traits,
    labels: &Labels,
    login: &str,
    proof: Proof,
) -> Result<Permit, Denied> {
    let identity = Identity {
        user_id: "u1".into(),
        user: "alice".into(),
        roles: held.to_vec(),
        traits,
        principals: vec![login.to_owned()],
        ..Identity::default()
    };
    check(&Question {
        identity: &identity,
        roles,
        target: Target { node_id: "n1", name: "web-01", labels },
        login: Some(login),
        locks: &[],
        proof,
        now: OffsetDateTime::UNIX_EPOCH,
    })
}

fn usual() -> Traits {
    traits(&[("logins", &["ada"]), ("team", &["web"]), ("none", &[])])
}

const PROVEN: Proof = Proof::Proven(Factor::Totp);

proptest! {
    /// What a user is given after the login refuses as it would in a certificate, and allows nothing.
    #[test]
    fn a_role_given_since_never_allows(
        held in prop::collection::vec(role(), 1..3), more in role(), labels in labels(), login in login()
    ) {
        let names: Vec<String> = (0..held.len()).map(|i| format!("r{i}")).collect();
        let mut roles: Roles = names.iter().cloned().zip(held).collect();
        roles.insert("more".into(), more);
        let identity = Identity {
            user: "alice".into(), roles: names.clone(), traits: usual(), principals: vec![login.clone()],
            ..Identity::default()
        };
        let decided = |identity: &Identity| check(&Question {
            identity, roles: &roles, target: Target { node_id: "n1", name: "web-01", labels: &labels },
            login: Some(&login), locks: &[], proof: PROVEN, now: OffsetDateTime::UNIX_EPOCH,
        }).is_ok();
        let since = Since { roles: vec!["more".into()], traits: None };
        let bound = decided(&Identity { since, ..identity.clone() });
        let renewed = { let mut all = names; all.push("more".into()); decided(&Identity { roles: all, ..identity.clone() }) };
        prop_assert!(!bound || decided(&identity), "it has allowed");
        prop_assert!(!bound || renewed, "it refuses less than in a certificate");
    }

    #[test]
    fn a_deny_never_allows(
        held in prop::collection::vec(role(), 1..4), deny in side(), labels in labels(), login in login()
    ) {
        let before = decide(&held, usual(), &labels, &login, PROVEN).is_ok();
        let mut more = held.clone();
        more.push(RoleSpec { deny: deny.clone(), ..RoleSpec::default() });
        let after = decide(&more, usual(), &labels, &login, PROVEN).is_ok();
        prop_assert!(before || !after, "a role that only denies has allowed");
        let mut inside = held;
        inside[0].deny = deny;
        let without = { let mut held = inside.clone(); held[0].deny = Default::default(); held };
        let denied = decide(&inside, usual(), &labels, &login, PROVEN).is_ok();
        prop_assert!(!denied || decide(&without, usual(), &labels, &login, PROVEN).is_ok());
    }

    #[test]
    fn the_order_of_roles_does_not_matter(
        held in prop::collection::vec(role(), 1..5), labels in labels(), login in login(), proven: bool
    ) {
        let proof = if proven { PROVEN } else { Proof::Nothing };
        let names: Vec<String> = (0..held.len()).map(|i| format!("r{i}")).collect();
        let roles: Roles = names.iter().cloned().zip(held).collect();
        let backwards: Vec<String> = names.iter().rev().cloned().collect();
        let [one, other] = [names, backwards].map(|names| ask(&names, &roles, usual(), &labels, &login, proof));
        prop_assert_eq!(one.is_ok(), other.is_ok());
        if let (Ok(one), Ok(other)) = (&one, &other) {
            let facts = |permit: &Permit| (
                permit.max_session_ttl(), permit.port_forwarding(), permit.file_copy(), permit.agent_forwarding(),
                permit.recording(), permit.max_sessions(), permit.max_connections(), permit.client_idle_timeout(),
            );
            prop_assert_eq!(facts(one), facts(other));
        }
        let needs = |answer: &Result<Permit, Denied>| answer.as_ref().err().and_then(Denied::needs);
        prop_assert_eq!(needs(&one), needs(&other));
    }

    #[test]
    fn an_error_never_allows(
        held in prop::collection::vec(role(), 1..4), labels in labels(), login in login(), place in 0..4_usize
    ) {
        let mut broken = held;
        let pattern = Selector::from([("env".to_owned(), "^($".into())]);
        match place {
            0 => broken[0].deny.node_labels = pattern,
            1 => broken[0].deny.logins = vec!["{{nobody.knows}}".to_owned()],
            2 => broken[0].allow.node_labels = pattern,
            _ => broken[0].allow.logins = vec!["{{nobody.knows}}".to_owned()],
        }
        let after = decide(&broken, usual(), &labels, &login, PROVEN);
        prop_assert!(place > 1 || after.is_err(), "a deny that cannot be evaluated denies");
        // What other roles grant stays theirs.
        prop_assert!(!after.is_ok_and(|permit| permit.roles().contains(&"r0".to_owned())));
    }

    #[test]
    fn empty_traits_match_nothing(labels in labels(), login in login(), key in select(vec!["env", "team"])) {
        for empty in [traits(&[]), traits(&[("x", &[])]), traits(&[("x", &[""])])] {
            let mut nodes = RoleSpec::default();
            nodes.allow.node_labels = Selector::from([(key.to_owned(), "{{external.x}}".into())]);
            nodes.allow.logins = vec![login.clone()];
            prop_assert!(decide(&[nodes], empty.clone(), &labels, &login, PROVEN).is_err());
            let mut logins = RoleSpec::default();
            logins.allow.node_labels = Selector::from([("*".to_owned(), "*".into())]);
            logins.allow.logins = vec!["{{external.x}}".to_owned(), "svc-{{external.x}}".to_owned()];
            prop_assert!(decide(&[logins], empty, &labels, &login, PROVEN).is_err());
        }
    }

    #[test]
    fn a_demand_never_allows_and_a_proof_meets_its_own_factor_only(
        held in prop::collection::vec(role(), 1..4), labels in labels(), login in login(), kind in 0..4_usize
    ) {
        let mut demanding = held;
        let options = &mut demanding[0].options;
        match kind {
            0 => options.require_session_mfa = Some(SessionMfa::Totp),
            1 => options.require_session_mfa = Some(SessionMfa::Webauthn),
            2 => options.require_session_mfa = Some(SessionMfa::HardwareKey),
            _ => options.require_session_join.push(JoinRequirement {
                name: "x".into(),
                filter: "nobody can read this".into(),
                kinds: Vec::new(),
                modes: vec![JoinMode::Peer],
                count: 1,
                on_leave: OnLeave::Pause,
            }),
        }
        let after = decide(&demanding, usual(), &labels, &login, Proof::Nothing);
        let r0_grants = after.as_ref().is_ok_and(|permit| permit.roles().contains(&"r0".to_owned()));
        prop_assert!(!r0_grants);
        let proven = decide(&demanding, usual(), &labels, &login, PROVEN);
        let granted = proven.is_ok_and(|permit| permit.roles().contains(&"r0".to_owned()));
        prop_assert!(kind == 0 || !granted, "a code is not a security key");
    }
}
