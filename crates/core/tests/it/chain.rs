//! The audit record and its chain.

use mezite_core::audit::chain::{BadRecord, ChainKey, GENESIS, Head, Record, Verifier, Why, chain_mac};
use mezite_core::audit::{Event, EventType};
use mezite_core::when;
use proptest::prelude::*;
use serde_json::{Value, json};

pub(crate) fn key(n: u8) -> ChainKey {
    ChainKey::new(&[n; 32]).unwrap()
}

fn event(i: usize) -> Event {
    let at = when::parse("2026-03-24T15:00:00.123Z").unwrap() + time::Duration::milliseconds(i64::try_from(i).unwrap());
    Event::new(EventType::ALL[i % EventType::ALL.len()], format!("id-{i}"), at)
        .user("alice", &["access".into()])
        .resource("node", format!("web-{i}"))
        .detail("n", i)
}

/// A chain whose key changes after `change` records.
pub(crate) fn chain(count: usize, change: usize) -> Vec<Record> {
    let mut previous = GENESIS;
    (1..=count)
        .map(|i| {
            let key = key(if i > change { 2 } else { 1 });
            let (event, seq) = (event(i), u64::try_from(i).unwrap());
            let canonical = event.canonical();
            let mac = chain_mac(&key, seq, &previous, &canonical);
            previous = mac;
            Record { seq, key_id: key.id().into(), mac: mac.into(), canonical, columns: Some(event.columns()) }
        })
        .collect()
}

fn verify(records: &[Record], keys: &[ChainKey]) -> Result<Head, BadRecord> {
    let mut verifier = Verifier::new(keys);
    records.iter().try_for_each(|record| verifier.push(record))?;
    Ok(verifier.head())
}

#[test]
fn the_record_has_the_documented_fields() {
    let event = event(1);
    let record: Value = serde_json::from_slice(&event.canonical()).unwrap();
    assert_eq!(
        record,
        json!({
            "id": "id-1", "event_type": "user.login.failed", "event_code": "T1000W", "user_name": "alice",
            "resource_type": "node", "resource_name": "web-1", "server_hostname": "", "client_ip": "",
            "timestamp": "2026-03-24T15:00:00.124Z", "session_id": "", "success": false, "user_roles": ["access"],
            "details": {"n": 1}
        })
    );
    let columns = event.columns();
    assert_eq!((columns.action.as_str(), columns.resource.as_str()), ("login.failed", "node/web-1"));
    assert_eq!((columns.status, columns.created_at), ("failure", 1_774_364_400_124));
}

#[test]
fn texts_of_strangers_stay_on_one_line_and_within_bounds() {
    let mut event = event(1);
    event.login = "root\r\n{\"id\":\"forged\"}\u{1b}[2J".into();
    event.error_message = "é".repeat(5000);
    event = event.detail("command", "x".repeat(1 << 20)).detail("list", vec!["y".repeat(9000)]);
    let canonical = event.canonical();
    assert!(canonical.len() < 20_000 && !canonical.contains(&b'\n') && !canonical.contains(&0x1b));
    let back: Event = serde_json::from_slice(&canonical).unwrap();
    assert_eq!(back.login, event.login);
    assert!(back.error_message.ends_with("…[cut]"));
    assert_eq!((back.canonical(), back.columns()), (canonical, event.columns()));
}

#[test]
fn a_chain_over_a_change_of_key_verifies_with_both_keys() {
    let records = chain(6, 3);
    let head = verify(&records, &[key(1), key(2)]).unwrap();
    assert_eq!(head.seq, 6);
    let bad = verify(&records, &[key(2)]).unwrap_err();
    assert_eq!(bad, BadRecord { seq: 1, why: Why::UnknownKey });
    assert_eq!(verify(&records, &[key(1)]).unwrap_err().seq, 4);
    let tail = &records[3..];
    let middle = verify(&records[..3], &[key(1)]).unwrap();
    let keys = [key(2)];
    let mut verifier = Verifier::after(&keys, middle);
    tail.iter().for_each(|record| verifier.push(record).unwrap());
    assert_eq!(verifier.head(), head);
}

#[test]
fn removal_exchange_and_wrong_columns_name_the_first_bad_record() {
    let keys = [key(1)];
    let mut removed = chain(5, 9);
    removed.remove(2);
    assert_eq!(verify(&removed, &keys).unwrap_err(), BadRecord { seq: 3, why: Why::OutOfOrder });
    let mut renumbered = removed.clone();
    (1..).zip(&mut renumbered).for_each(|(seq, record)| record.seq = seq);
    assert_eq!(verify(&renumbered, &keys).unwrap_err(), BadRecord { seq: 3, why: Why::Changed });
    let mut exchanged = chain(5, 9);
    exchanged.swap(1, 2);
    assert_eq!(verify(&exchanged, &keys).unwrap_err().seq, 2);
    let mut column = chain(5, 9);
    column[3].columns.as_mut().unwrap().user = "bob".into();
    assert_eq!(verify(&column, &keys).unwrap_err(), BadRecord { seq: 4, why: Why::Columns });
    assert_eq!(verify(&[], &keys).unwrap(), Head::START);
}

#[test]
fn a_mac_holds_for_one_place_only() {
    let (key, text) = (key(1), b"text".as_slice());
    let mac = chain_mac(&key, 1, &GENESIS, text);
    assert_ne!(mac, chain_mac(&key, 2, &GENESIS, text));
    assert_ne!(mac, chain_mac(&key, 1, &mac, text));
    // A record of another log under the same key does not fit, even at the same number.
    let mut records = chain(3, 9);
    let canonical = event(9).canonical();
    let other = chain_mac(&key, 1, &GENESIS, &canonical);
    records[1].mac = chain_mac(&key, 2, &other, &records[1].canonical).into();
    assert_eq!(verify(&records, &[key]).unwrap_err(), BadRecord { seq: 2, why: Why::Changed });
}

#[test]
fn a_record_under_a_stolen_key_id_does_not_verify() {
    let mut records = chain(2, 9);
    let canonical = event(1).canonical();
    records[0].mac = chain_mac(&key(3), 1, &GENESIS, &canonical).into();
    assert_eq!(verify(&records, &[key(1)]).unwrap_err(), BadRecord { seq: 1, why: Why::Changed });
}

#[test]
fn short_keys_are_refused_and_debug_hides_the_secret() {
    assert!(ChainKey::new(b"short").is_none());
    let key = ChainKey::new(b"a secret of enough bytes").unwrap();
    assert_eq!(format!("{key:?}"), format!("ChainKey({:?})", key.id()));
}

proptest! {
    #[test]
    fn any_single_change_is_found(count in 1usize..8, at in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(),
        flip in 1u8..=255, part in 0..4) {
        let mut records = chain(count, 4);
        let keys = [key(1), key(2)];
        prop_assert!(verify(&records, &keys).is_ok());
        let index = at.index(count);
        let record = &mut records[index];
        match part {
            0 => { let i = byte.index(record.canonical.len()); record.canonical[i] ^= flip; }
            1 => { let i = byte.index(record.mac.len()); record.mac[i] ^= flip; }
            2 => record.seq ^= u64::from(flip),
            _ => record.key_id = if record.key_id == keys[0].id() { keys[1].id().into() } else { keys[0].id().into() },
        }
        let bad = verify(&records, &keys).unwrap_err();
        prop_assert_eq!(bad.seq, u64::try_from(index).unwrap() + 1);
    }
}
