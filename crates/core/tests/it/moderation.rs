//! Who counts in a session, and who may join it.

use mezite_core::kind::parse_role;
use mezite_core::kind::role::{BUILT_IN, JoinMode, built_in};
use mezite_core::kind::user::Traits;
use mezite_core::lock::Lock;
use mezite_core::predicate::{Predicate, Subject};
use mezite_core::rbac::{
    Factor, Joining, Participant, Permit, Proof, Question, Requirement, Roles, Target, check, may_join,
    may_join_somehow, unmet,
};
use mezite_core::{Identity, Labels};
use proptest::prelude::*;
use serde_json::json;
use time::OffsetDateTime;

fn identity(user: &str, roles: &[&str]) -> Identity {
    Identity {
        user_id: format!("id-{user}"),
        user: user.to_owned(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        principals: vec!["root".into()],
        ..Identity::default()
    }
}

fn roles() -> Roles {
    let entry = |name: &str, filter: &str, modes: &[&str], count: u32| json!({"name": name, "filter": filter, "modes": modes, "count": count, "on_leave": "pause"});
    let everywhere = json!({"node_labels": {"*": "*"}, "logins": ["root"]});
    let specs = [
        (
            "one",
            json!({"options": {"require_session_join": [entry("a", "contains(user.roles, \"sec\")", &["observer"], 1)]},
            "allow": everywhere}),
        ),
        (
            "two",
            json!({"options": {"require_session_join": [entry("b", "contains(user.roles, \"sec\")", &["moderator"], 2)]},
            "allow": everywhere}),
        ),
        ("sec", json!({})),
        ("helper", json!({"allow": {"join_sessions": [{"roles": ["one"], "modes": ["peer"]}]}})),
        ("mfa", json!({"options": {"require_session_mfa": "totp"}, "allow": everywhere})),
        ("outside", json!({"deny": {"node_labels": {"env": "prod"}}})),
        ("notroot", json!({"deny": {"logins": ["root"]}})),
        ("notone", json!({"deny": {"join_sessions": [{"roles": ["one"], "modes": ["observer", "peer"]}]}})),
    ];
    let role = |(name, spec)| parse_role(&json!({"metadata": {"name": name}, "spec": spec})).unwrap();
    let built_in = BUILT_IN.map(|name| (name.to_owned(), built_in(name).unwrap()));
    specs.into_iter().map(role).chain(built_in).collect()
}

fn question<'a>(identity: &'a Identity, roles: &'a Roles, labels: &'a Labels, locks: &'a [Lock]) -> Question<'a> {
    let target = Target { node_id: "n", name: "web", labels };
    Question { identity, roles, target, login: None, locks, proof: Proof::Nothing, now: OffsetDateTime::UNIX_EPOCH }
}

fn permit(owner: &Identity, roles: &Roles) -> Permit {
    check(&Question { login: Some("root"), ..question(owner, roles, &Labels::new(), &[]) }).unwrap()
}

fn lacking(requirements: &[Requirement], present: &[(&Identity, JoinMode)]) -> Vec<u32> {
    let present: Vec<_> = present.iter().map(|&(identity, mode)| Participant { identity, mode }).collect();
    unmet(requirements, "id-alice", &present).iter().map(|unmet| unmet.lacking).collect()
}

#[test]
fn every_entry_of_every_matching_role_must_be_met_by_others() {
    use JoinMode::{Moderator, Observer, Peer};
    let roles = roles();
    let requirements = permit(&identity("alice", &["one", "two"]), &roles).moderation().to_vec();
    let (bob, carol) = (identity("bob", &["sec"]), identity("carol", &["sec", "helper"]));
    let (alice, dan) = (identity("alice", &["sec"]), identity("dan", &["helper"]));
    for (present, wanted) in [
        (vec![], vec![1, 2]),
        (vec![(&bob, Observer)], vec![2]),
        (vec![(&bob, Observer), (&bob, Moderator)], vec![1]),
        (vec![(&bob, Observer), (&bob, Moderator), (&carol, Moderator)], vec![]),
        // Twice the same user, the owner by another login, another mode, and somebody whom nobody asked for.
        (vec![(&bob, Moderator), (&bob, Moderator)], vec![1, 1]),
        (vec![(&alice, Observer), (&alice, Moderator)], vec![1, 2]),
        (vec![(&bob, Peer)], vec![1, 2]),
        (vec![(&dan, Observer)], vec![1, 2]),
    ] {
        assert_eq!(lacking(&requirements, &present), wanted, "{present:?}");
    }
}

#[test]
fn joining_is_for_those_asked_for_and_those_granted() {
    use JoinMode::{Moderator, Observer, Peer};
    let roles = roles();
    let owner = identity("alice", &["one"]);
    let permit = permit(&owner, &roles);
    let labels = Labels::from([("env".into(), "prod".into())]);
    let lock = Lock::from_stored("l", &json!({"target_type": "user", "target": "bob"}));
    let ask = |held: &[&str], mode, proof, locks: &[Lock]| {
        let bob = identity("bob", held);
        let joining = Joining { mode, login: "root", owner_roles: &owner.roles, requirements: permit.moderation() };
        let asked = Question { proof, ..question(&bob, &roles, &labels, locks) };
        may_join(&asked, joining).map(|seat| {
            assert_eq!((seat.mode(), seat.identity()), (mode, &bob));
        })
    };
    let refused = |held: &[&str], mode| ask(held, mode, Proof::Nothing, &[]).unwrap_err().to_string();
    for (held, mode, wanted) in [
        (&["sec"][..], Observer, true),
        (&["sec"], Moderator, false),
        (&["helper"], Peer, true),
        (&["helper"], Observer, false),
        (&["auditor"], Observer, true),
        (&["auditor"], Moderator, false),
        (&["admin"], Peer, true),
        (&["access"], Observer, false),
        (&[], Observer, false),
    ] {
        assert_eq!(ask(held, mode, Proof::Nothing, &[]).is_ok(), wanted, "{held:?} {mode:?}");
    }
    assert!(refused(&["access"], Observer).contains("no role allows joining this session as observer"));
    assert!(refused(&["admin", "outside"], Observer).contains("role outside denies this node"));
    assert!(refused(&["admin", "notroot"], Peer).contains("role notroot denies this login"));
    assert!(ask(&["admin", "notroot"], Moderator, Proof::Nothing, &[]).is_ok(), "a moderator does not type");
    assert!(refused(&["sec", "notone"], Observer).contains("role notone denies joining this session"));
    assert!(refused(&["sec", "gone"], Observer).contains("role gone is not defined"));
    assert!(ask(&["sec"], Observer, Proof::Nothing, &[lock]).unwrap_err().to_string().contains("locked (l)"));
    let unproven = ask(&["sec", "mfa"], Observer, Proof::Nothing, &[]).unwrap_err();
    assert_eq!(unproven.needs().map(|needed| needed.factor), Some(Factor::Totp));
    assert!(ask(&["sec", "mfa"], Observer, Proof::Proven(Factor::Totp), &[]).is_ok());
}

#[test]
fn a_factor_is_asked_for_where_it_opens_some_mode() {
    let roles = roles();
    let (owner, labels) = (identity("alice", &["one"]), Labels::new());
    let ask = |held: &[&str], proof| {
        let bob = identity("bob", held);
        let joining = Joining { mode: JoinMode::Observer, login: "root", owner_roles: &owner.roles, requirements: &[] };
        may_join_somehow(&Question { proof, ..question(&bob, &roles, &labels, &[]) }, joining)
    };
    assert!(ask(&["helper"], Proof::Nothing).is_ok(), "a peer may join, an observer may not");
    assert!(ask(&["helper", "mfa"], Proof::Nothing).unwrap_err().needs().is_some());
    assert!(ask(&["helper", "mfa"], Proof::Proven(Factor::Totp)).is_ok());
    let refused = ask(&["mfa"], Proof::Nothing).unwrap_err();
    assert!(refused.needs().is_none() && refused.to_string().contains("as observer"), "{refused}");
}

fn expression() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec!["a", "b", "c"]);
    let term = (word, 0..5_usize).prop_map(|(word, kind)| match kind {
        0 => format!("contains(user.roles, \"{word}\")"),
        1 => format!("contains(user.traits.t, \"{word}\")"),
        2 => format!("contains(user.traits[\"missing\"], \"{word}\")"),
        3 => format!("equals(user.name, \"{word}\")"),
        _ => format!("equals(\"a\", \"{word}\")"),
    });
    term.prop_recursive(3, 12, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|one| format!("!{one}")),
            (inner.clone(), inner.clone()).prop_map(|(one, other)| format!("({one} && {other})")),
            (inner.clone(), inner).prop_map(|(one, other)| format!("({one} || {other})")),
        ]
    })
}

fn holds(text: &str, held: &[String]) -> bool {
    let traits = Traits::from([("t".to_owned(), held.to_vec())]);
    Predicate::parse(text).unwrap().matches(Subject { name: "a", roles: held, traits: &traits })
}

proptest! {
    #[test]
    fn the_order_of_terms_never_matters(
        one in expression(), other in expression(), held in prop::collection::vec("[abc]", 0..3)
    ) {
        for sign in ["&&", "||"] {
            let (ahead, back) = (format!("{one} {sign} {other}"), format!("{other} {sign} {one}"));
            prop_assert_eq!(holds(&ahead, &held), holds(&back, &held));
        }
        let both = format!("({one}) && !({one})");
        prop_assert!(!holds(&both, &held));
        let (neither, apart) = (format!("!(({one}) || ({other}))"), format!("!({one}) && !({other})"));
        prop_assert_eq!(holds(&neither, &held), holds(&apart, &held));
    }

    #[test]
    fn nobody_is_needed_less_by_more_who_come(
        mut present in prop::collection::vec((0..4_usize, 0..3_usize), 0..6), late in (0..4_usize, 0..3_usize)
    ) {
        let roles = roles();
        let people = [identity("alice", &["sec"]), identity("bob", &["sec"]), identity("carol", &["sec"]), identity("dan", &[])];
        let requirements = permit(&identity("alice", &["one", "two"]), &roles).moderation().to_vec();
        let sum = |present: &[(usize, usize)]| {
            let present: Vec<_> = present.iter().map(|&(who, how)| (&people[who], JoinMode::ALL[how])).collect();
            lacking(&requirements, &present).iter().sum::<u32>()
        };
        let before = sum(&present);
        present.push(late);
        let after = sum(&present);
        prop_assert!(after <= before);
        prop_assert!(after == before || (late.0 != 0 && late.0 != 3), "the owner and a stranger change nothing");
    }
}
