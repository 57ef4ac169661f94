//! Names, labels, spans, moments, routes, identities and texts.

use std::collections::BTreeMap;
use std::time::Duration;

use mezite_core::identity::{Flags, IdentityError, MAX_EXTENSION, ROLES, TRAITS, USER_ID};
use mezite_core::kind::config::{SETTINGS, Setting};
use mezite_core::kind::user::Traits;
use mezite_core::kind::{Config, ConfigSpec, Kind, LockSpec, Node, NodeSpec, Token, TokenSpec, User, UserSpec};
use mezite_core::labels::{self, Labels};
use mezite_core::rbac::selector::{self, Matcher, Selector, Values};
use mezite_core::rbac::template::{Template, Variables};
use mezite_core::route::{Candidate, Route, host_principals, resolve};
use mezite_core::text::{Table, escape_control};
use mezite_core::{Identity, decode, duration, name, when};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn names() {
    for good in ["alice", "a", "alice@example.com", "0a", "a-b_c.d"] {
        assert!(name::user(good).is_ok(), "{good}");
    }
    for bad in ["", "Alice", "-a", ".a", "a b", "a\n", "аlice", "a/b", "a\u{202e}", &"a".repeat(129)] {
        assert!(name::user(bad).is_err(), "{bad:?}");
    }
    for good in ["web-01", "a.b.c", "ip-10-0-0-1.internal", "db_1"] {
        assert!(name::node(good).is_ok(), "{good}");
    }
    for bad in [
        "localhost",
        "a.localhost",
        "x.mezite",
        "mezite",
        "10.0.0.1",
        "1",
        "Web",
        "a..b",
        "-a",
        "a-",
        ".a",
        "a.",
        "a:b",
        "*",
        "a1b2c3d4-e5f6-7890-abcd-ef1234567890",
        &"a".repeat(64),
    ] {
        assert!(name::node(bad).is_err(), "{bad:?}");
    }
    for good in ["root", "_apt", "svc$", "a.b", "1st", "user@domain"] {
        assert!(name::login(good).is_ok(), "{good}");
    }
    for bad in ["", "0", "00", "+0", "-l", "-oProxyCommand=x", "root;id", "../x", ".", "a b", "a\0", "*", "rооt"] {
        assert!(name::login(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn labels_are_read_sorted_and_refused() {
    let labels = labels::parse("team=platform,env=production,os=ubuntu").unwrap();
    assert_eq!(labels::print(&labels), "env=production,os=ubuntu,team=platform");
    assert_eq!(labels::parse("a=b=c").unwrap(), Labels::from([("a".into(), "b=c".into())]));
    assert!(labels::parse("").unwrap().is_empty());
    for bad in ["a", "a=1,a=2", "=1", "a= 1", "a=1 ", "a =1", "a=1,", "a=\u{1b}", "é=1", "a=é", "a=1\n", "a b=1"] {
        assert!(labels::parse(bad).is_err(), "{bad:?}");
    }
    let many = (0..65).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
    assert!(labels::parse(&many).is_err());
    let filter = |text| labels::matches_filter(&labels, &labels::parse(text).unwrap());
    assert!(filter("env=production") && filter("env=production,os=ubuntu") && filter(""));
    assert!(!filter("env=production,os=debian") && !filter("env=prod"));
}

#[test]
fn spans() {
    for (text, seconds, printed) in [
        ("12h", 43_200, "12h"),
        ("30m", 1800, "30m"),
        ("1h30m", 5400, "1h30m"),
        ("2d", 172_800, "48h"),
        ("90s", 90, "1m30s"),
        ("0s", 0, "0s"),
        ("12h0m0s", 43_200, "12h"),
    ] {
        let span = duration::parse(text).unwrap();
        assert_eq!((span, duration::print(span).as_str()), (Duration::from_secs(seconds), printed));
    }
    assert_eq!(duration::parse("250ms").unwrap(), Duration::from_millis(250));
    for bad in
        ["", "12", "h", "-1h", "1.5h", "1m1h", "1h1h", "1 h", "1H", "1w", "99999999999999999999h", "4000d", "1hm"]
    {
        assert!(duration::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn moments() {
    let at = when::parse("2026-03-24T17:00:00.1239+02:00").unwrap();
    assert_eq!(
        (when::seconds(at).as_str(), when::millis(at).as_str()),
        ("2026-03-24T15:00:00Z", "2026-03-24T15:00:00.123Z")
    );
    let since = |text| when::parse_since(text, at).map(when::seconds).ok();
    assert_eq!(since("10m").as_deref(), Some("2026-03-24T14:50:00Z"));
    assert_eq!(since("2026-03-01").as_deref(), Some("2026-03-01T00:00:00Z"));
    assert_eq!(since("2026-03-01T01:02:03Z").as_deref(), Some("2026-03-01T01:02:03Z"));
    assert_eq!(since("yesterday"), None);
}

#[test]
fn routes() {
    let node = |id, name| Candidate { id, name };
    let nodes = [node("1", "web"), node("2", "db"), node("3", "db"), node("4", "web.prod"), node("5", "api.other")];
    let found = |target: &str| match resolve(target, "prod", nodes) {
        Route::Found(node) => node.id.to_owned(),
        Route::Ambiguous(nodes) => nodes.iter().map(|node| node.id).collect::<Vec<_>>().join("+"),
        Route::NotFound => "-".into(),
    };
    for (target, wanted) in [
        ("web", "1"),
        ("WEB", "1"),
        ("web.mezite", "1"),
        ("web.prod.mezite", "1+4"),
        ("web.prod", "1+4"),
        ("db", "2+3"),
        ("3", "3"),
        ("api.other", "5"),
        ("api", "-"),
        ("webprod", "-"),
        ("", "-"),
        ("prod", "-"),
        (".prod", "-"),
        ("web.mezite.mezite", "-"),
    ] {
        assert_eq!(found(target), wanted, "{target}");
    }
    assert_eq!(found(&"a".repeat(300)), "-");
    for principal in host_principals(node("5", "api.other"), "prod") {
        assert_eq!(found(&principal), "5");
    }
}

fn alice() -> Identity {
    Identity {
        user_id: "u-1".into(),
        user: "alice".into(),
        cluster: "example".into(),
        roles: vec!["access".into(), "dev".into()],
        traits: Traits::from([("logins".into(), vec!["ubuntu".into()])]),
        principals: vec!["ubuntu".into()],
        ..Identity::default()
    }
}

fn read(identity: &Identity, pairs: &[(String, String)]) -> Result<Identity, IdentityError> {
    let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Identity::from_certificate(&identity.user, &identity.principals, pairs)
}

#[test]
fn an_identity_goes_through_a_certificate() {
    let alice = alice();
    let pairs = alice.to_extensions(Flags { pty: true, port_forwarding: true, ..Flags::default() });
    let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
    let sorted = ["cluster@mezite", "permit-port-forwarding", "permit-pty", ROLES, TRAITS, USER_ID];
    assert_eq!(names, sorted);
    assert_eq!(read(&alice, &pairs).unwrap(), alice);

    let with = |name: &str, value: &str| {
        let mut pairs = pairs.clone();
        pairs.iter_mut().filter(|pair| pair.0 == name).for_each(|pair| pair.1 = value.to_owned());
        read(&alice, &pairs)
    };
    let without: Vec<_> = pairs.iter().filter(|pair| pair.0 != USER_ID).cloned().collect();
    assert_eq!(read(&alice, &without), Err(IdentityError::Missing(USER_ID)));
    let twice = [pairs.clone(), vec![(ROLES.into(), "[\"admin\"]".into())]].concat();
    assert_eq!(read(&alice, &twice), Err(IdentityError::Repeated(ROLES)));
    for roles in ["", "admin", "{}", "[1]", "[\"A\"]", "[\"\"]"] {
        assert_eq!(with(ROLES, roles), Err(IdentityError::Unreadable(ROLES)), "{roles}");
    }
    assert_eq!(with(ROLES, &" ".repeat(MAX_EXTENSION + 1)), Err(IdentityError::Unreadable(ROLES)));
    assert_eq!(with(TRAITS, "{\"a\":\"b\"}"), Err(IdentityError::Unreadable(TRAITS)));
    assert_eq!(with(USER_ID, "\"\""), Err(IdentityError::Unreadable(USER_ID)));
    let stranger = Identity { user: "Alice\n".into(), ..alice.clone() };
    assert!(read(&stranger, &pairs).is_err());
}

#[test]
fn tables_are_aligned_and_harmless() {
    let mut table = Table::new(&["HOSTNAME", "TYPE", "VERSION"]);
    table.row(["web-server-01", "node", "0.1.0"]);
    table.row(["\u{1b}[2J", "", "1"]);
    assert_eq!(
        table.to_string(),
        "HOSTNAME       TYPE  VERSION\nweb-server-01  node  0.1.0\n\\u{1b}[2J      -     1\n"
    );
    assert_eq!(escape_control("a\r\n\tb\u{202e}\u{9b}\u{200b}é"), "a\\r\\n\\tb\\u{202e}\\u{9b}\\u{200b}é");
    assert!(matches!(escape_control("plain é"), std::borrow::Cow::Borrowed(_)));
}

#[test]
fn kinds_refuse_what_is_wrong_and_say_where() {
    fn refused<K: Kind>(name: &str, spec: Value) -> String {
        match decode::decode::<K::Spec>(&spec).and_then(|spec| K::validate(name, &spec)) {
            Ok(()) => "valid".into(),
            Err(e) => e.to_string(),
        }
    }
    let id = "a1b2c3d4-e5f6-7890-abcd-ef1234567890";
    assert_eq!(refused::<User>("alice", json!({"roles": ["a", "b"], "traits": {"logins": ["x"]}})), "valid");
    assert_eq!(refused::<User>("alice", json!({"roles": ["a", "a"]})), "roles: a is named twice");
    assert_eq!(
        refused::<User>("alice", json!({"roles": ["A"]})),
        "roles.[0]: must not hold 'A'; only lower-case letters, digits and . _ -"
    );
    assert_eq!(refused::<User>("alice", json!({"role": []})), "role: unknown field, did you mean roles?");
    assert_eq!(refused::<User>("alice", json!({"traits": {"t": ["a\n"]}})), "traits.t: must not hold '\\n'");
    let token = |roles: Value| json!({"roles": roles, "expires": "2026-03-24T15:00:00Z"});
    assert_eq!(refused::<Token>("t", token(json!(["node"]))), "valid");
    assert_eq!(refused::<Token>("t", token(json!([]))), "roles: must name node, proxy, or both, each once");
    assert_eq!(refused::<Token>("t", token(json!(["admin"]))), "roles.[0]: \"admin\" is not one of node, proxy");
    let node = |hostname: &str, id: &str| json!({"node_id": id, "hostname": hostname, "labels": {"env": "x"}});
    assert_eq!(refused::<Node>("web", node("web", id)), "valid");
    assert_eq!(refused::<Node>("web", node("db", id)), "hostname: must be the name of the node");
    assert_eq!(refused::<Node>("web", node("web", "1")), "node_id: must be a lower-case UUID");
    let lock = |kind: &str, target: &str| json!({"target_type": kind, "target": target});
    type Lock = mezite_core::kind::Lock;
    for (kind, target) in
        [("user", "bob"), ("role", "r"), ("agent", "web"), ("agent", id), ("agent_identity", "ci-bot")]
    {
        assert_eq!(refused::<Lock>("l", lock(kind, target)), "valid");
    }
    for (kind, target) in [("node", "web"), ("node", id), ("login", "root"), ("mfa_device", "bob/phone")] {
        assert_eq!(refused::<Lock>("l", lock(kind, target)), "valid");
    }
    for (kind, target) in [("node", "a b"), ("login", "ro ot"), ("mfa_device", "phone"), ("mfa_device", "bob/a/b")] {
        assert!(refused::<Lock>("l", lock(kind, target)).starts_with("target: "), "{kind} {target}");
    }
    assert_eq!(
        refused::<User>("alice", json!({"roles": ["a"], "expires": {"b": "2026-03-24T15:00:00Z"}})),
        "expires.b: names no role of the user"
    );
    assert!(refused::<User>("alice", json!({"roles": ["a"], "expires": {"a": "soon"}})).contains("is not a time"));
    assert!(refused::<Lock>("l", lock("planet", "x")).starts_with("target_type: \"planet\" is not one of user, role"));
    assert_eq!(
        refused::<Lock>("l", lock("user", "*")),
        "target: must not hold '*'; only lower-case letters, digits and . _ @ -"
    );
    let value = |value: &str| json!({"value": value});
    assert_eq!(refused::<Config>("user_cert_ttl", value("8h")), "valid");
    assert_eq!(refused::<Config>("user_cert_ttl", value("48h")), "value: must be between 1m and 24h");
    assert_eq!(refused::<Config>("user_cert_tll", value("8h")), "key: unknown setting; did you mean user_cert_ttl?");
}

#[test]
fn columns_fit_their_names() {
    fn fit<K: Kind>(spec: Value) -> Vec<Value> {
        let columns = K::columns("name", &decode::decode::<K::Spec>(&spec).unwrap());
        assert_eq!(columns.len(), K::COLUMNS.len());
        columns
    }
    fit::<User>(json!({"roles": ["a"]}));
    fit::<Config>(json!({"value": "8h"}));
    fit::<Node>(json!({"node_id": "x", "hostname": "web"}));
    fit::<mezite_core::kind::Lock>(json!({"target_type": "user", "target": "bob"}));
    let token = fit::<Token>(json!({"roles": ["node"], "expires": "2026-03-24T17:00:00+02:00"}));
    assert_eq!(token, [json!(["node"]), json!("2026-03-24T15:00:00Z")]);
    let references = User::references(&UserSpec { roles: vec!["a".into()], ..UserSpec::default() });
    assert_eq!((references[0].kind, references[0].name.as_str()), ("role", "a"));
}

#[test]
fn settings_fall_back_to_their_defaults() {
    for setting in SETTINGS {
        setting.read(setting.default).unwrap();
    }
    let ttl = Setting::named("user_cert_ttl").unwrap();
    assert_eq!(ttl.effective(Some("1h")), Duration::from_secs(3600));
    assert_eq!(ttl.effective(Some("broken")), Duration::from_secs(12 * 3600));
    assert_eq!(ttl.effective(None), Duration::from_secs(12 * 3600));
}

#[test]
fn specs_round_trip_through_storage() {
    fn same<S: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(spec: &S) {
        let stored = serde_json::to_value(spec).unwrap();
        assert_eq!(&decode::decode::<S>(&stored).unwrap(), spec);
    }
    let expires = when::parse("2026-03-24T15:00:00Z").unwrap();
    same(&TokenSpec { roles: vec![mezite_core::kind::token::JoinRole::Proxy], expires, labels: Labels::new() });
    same(&LockSpec {
        target_type: mezite_core::kind::lock::TargetType::AgentIdentity,
        target: "x".into(),
        message: "m".into(),
        expires: Some(expires),
    });
    same(&NodeSpec { node_id: "x".into(), hostname: "web".into(), version: "0.1.0".into(), ..NodeSpec::default() });
    same(&ConfigSpec { value: "8h".into() });
    same(&UserSpec {
        roles: vec!["a".into()],
        traits: Traits::from([("t".into(), vec!["v".into()])]),
        expires: [("a".to_owned(), expires)].into(),
    });
}

fn label() -> impl Strategy<Value = (String, String)> {
    ("[a-d]{1,2}", "[a-c]{0,3}")
}

fn node_labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map("[a-d]{1,2}", "[a-c]{0,3}", 0..5)
}

proptest! {
    #[test]
    fn labels_round_trip(labels in prop::collection::btree_map("[A-Za-z0-9._/:-]{1,8}", "([!-+\\--~]([ -+\\--~]{0,6}[!-+\\--~])?)?", 0..8)) {
        let clean = labels::validate(&labels).is_ok();
        prop_assume!(clean);
        prop_assert_eq!(labels::parse(&labels::print(&labels)).unwrap(), labels);
    }

    /// Whatever an agent claims after its first registration, its labels stay; and nobody's labels change by its first.
    #[test]
    fn an_agent_changes_no_label(given in node_labels(), first in node_labels(), later in prop::collection::vec(node_labels(), 0..4)) {
        let node = NodeSpec { labels: given.clone(), ..NodeSpec::default() };
        let registered = node.claim("1", first.clone());
        prop_assert!(given.iter().all(|(key, value)| registered.labels.get(key) == Some(value)));
        prop_assert!(registered.labels.iter().all(|pair| given.contains_key(pair.0) || first.get(pair.0) == Some(pair.1)));
        let edited = NodeSpec { labels: given, ..registered.clone() };
        for start in [registered, edited] {
            let mut node = start.clone();
            for claimed in &later {
                node = node.claim("2", claimed.clone());
                prop_assert_eq!(&node.labels, &start.labels);
            }
        }
    }

    #[test]
    fn label_reading_never_accepts_what_it_would_print_differently(text in "\\PC{0,40}") {
        if let Ok(labels) = labels::parse(&text) {
            prop_assert_eq!(labels::parse(&labels::print(&labels)).unwrap(), labels);
        }
    }

    #[test]
    fn an_exact_selector_matches_when_it_is_a_subset(selector in prop::collection::vec(label(), 0..3), labels in node_labels()) {
        let selector: BTreeMap<String, String> = selector.into_iter().collect();
        let subset = !selector.is_empty() && labels::matches_filter(&labels, &selector);
        let selector: Selector = selector.iter().map(|(k, v)| (k.clone(), Values::from(v.as_str()))).collect();
        let traits = Traits::new();
        let matcher = Matcher::new(&selector, Variables { user: "u", traits: &traits }).unwrap();
        prop_assert_eq!(matcher.matches(&labels), subset);
    }

    #[test]
    fn a_valid_selector_can_be_used(key in "[a-z*]{1,3}", value in "\\PC{0,12}") {
        let selector = Selector::from([(key, Values(vec![value]))]);
        let traits = Traits::new();
        let usable = Matcher::new(&selector, Variables { user: "u", traits: &traits }).is_ok();
        prop_assert!(usable || selector::validate(&selector).is_err());
    }

    #[test]
    fn trait_values_are_literal(value in "\\PC{1,12}", label in "[ -~]{0,12}") {
        let traits = Traits::from([("t".to_owned(), vec![value.clone()])]);
        let selector = Selector::from([("k".to_owned(), Values::from("{{external.t}}"))]);
        let matcher = Matcher::new(&selector, Variables { user: "u", traits: &traits }).unwrap();
        let on = |label: &str| Labels::from([("k".to_owned(), label.to_owned())]);
        prop_assert_eq!(matcher.matches(&on(&label)), label == value);
        prop_assert!(matcher.matches(&on(&value)));
        prop_assert!(!matcher.matches(&Labels::new()));
    }

    #[test]
    fn templates_put_each_value_in_its_place(before in "[a-z]{0,4}", after in "[a-z]{0,4}", values in prop::collection::vec("[a-z{}]{0,4}", 0..4)) {
        let text = format!("{before}{{{{external.t}}}}{after}");
        let traits = Traits::from([("t".to_owned(), values.clone())]);
        let expanded = Template::parse(&text).unwrap().expand(Variables { user: "u", traits: &traits });
        let wanted: Vec<String> = values.iter().filter(|v| !v.is_empty()).map(|v| format!("{before}{v}{after}")).collect();
        prop_assert_eq!(expanded, wanted);
    }

    #[test]
    fn template_reading_survives_anything(text in "(\\{|\\}|[a-z.]|\\PC){0,30}") {
        if let Ok(Template::Literal(literal)) = Template::parse(&text) {
            prop_assert!(literal == text && !text.contains("{{") && !text.contains("}}"));
        }
    }

    #[test]
    fn spans_round_trip(millis in 0u64..315_360_000_000) {
        let span = Duration::from_millis(millis);
        prop_assert_eq!(duration::parse(&duration::print(span)).unwrap(), span);
    }

    #[test]
    fn escaped_text_holds_nothing_unsafe(text in any::<String>()) {
        let safe = escape_control(&text).into_owned();
        prop_assert!(!safe.chars().any(char::is_control));
        prop_assert_eq!(escape_control(&safe).into_owned(), safe);
    }
}
