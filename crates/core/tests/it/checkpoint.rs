//! Signed checkpoints, and the file of an export.

use mezite_core::audit::chain::{Head, Record, Verifier};
use mezite_core::audit::checkpoint::{
    Checkpoint, Divergence, Extent, Mark, Marks, PublicKey, Signed, SigningKey, Unbelieved,
};
use mezite_core::audit::export::{
    BadLine, Begin, Contents, Exported, FORMAT, FileVerifier, Flaw, Line, mark, statement,
};
use mezite_core::when;
use proptest::prelude::*;
use time::OffsetDateTime;

use crate::chain::{chain, key};

fn signer(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32]).unwrap()
}

fn now() -> OffsetDateTime {
    when::parse("2026-03-24T15:00:00.123Z").unwrap()
}

fn heads(records: &[Record]) -> Vec<Head> {
    let keys = [key(1), key(2)];
    let mut verifier = Verifier::new(&keys);
    let push = |record| {
        verifier.push(record).unwrap();
        verifier.head()
    };
    std::iter::once(Head::START).chain(records.iter().map(push)).collect()
}

fn checkpoint(records: &[Record], head: Head) -> Checkpoint {
    let segment = records[usize::try_from(head.seq).unwrap() - 1].key_id.clone();
    Checkpoint { cluster: "example".into(), segment, seq: head.seq, mac: head.mac, hash: head.hash, at: now() }
}

/// An export of the records from `first` on, with a checkpoint over every `every`th and the last.
fn file(records: &[Record], first: usize, every: usize, key: &SigningKey) -> Vec<String> {
    let heads = heads(records);
    let first_seq = u64::try_from(first).unwrap();
    let (before, at, cluster) = (heads[first - 1].hash, now(), "example".to_owned());
    let begin = Begin { format: FORMAT, cluster: cluster.clone(), first: first_seq, before, at };
    let mut lines = vec![Line::Begin(begin).print().unwrap()];
    for (i, record) in records.iter().enumerate().skip(first - 1) {
        let event = serde_json::from_slice(&record.canonical).unwrap();
        let mac = record.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let hash = heads[i + 1].hash;
        lines.push(
            Line::Record(Exported { seq: record.seq, key_id: record.key_id.clone(), mac, hash, event })
                .print()
                .unwrap(),
        );
        if (i + 1).is_multiple_of(every) || i + 1 == records.len() {
            lines
                .push(Line::Checkpoint(Signed::new(&checkpoint(records, heads[i + 1]), key).unwrap()).print().unwrap());
        }
    }
    let end = heads.last().unwrap();
    let extent = Extent { cluster, first: first_seq, before, last: end.seq, hash: end.hash, at };
    lines.push(Line::End(Signed::new(&extent, key).unwrap()).print().unwrap());
    lines
}

fn verify_with(lines: &[String], trusted: Option<Vec<PublicKey>>) -> Result<Contents, BadLine> {
    let mut verifier = FileVerifier::new(trusted);
    lines.iter().try_for_each(|line| verifier.push(line.trim_end_matches('\n')))?;
    verifier.finish()
}

fn verify(lines: &[String]) -> Result<Contents, BadLine> {
    verify_with(lines, Some(vec![signer(7).public()]))
}

#[test]
fn an_export_verifies_with_the_public_key_alone() {
    let records = chain(9, 4);
    for first in [1, 3, 9, 10] {
        let contents = verify(&file(&records, first, 3, &signer(7))).unwrap();
        assert_eq!((contents.extent.first, contents.extent.last), (u64::try_from(first).unwrap(), 9));
        assert_eq!(contents.keys, [signer(7).public()]);
    }
    let lines = file(&records, 1, 3, &signer(7));
    assert_eq!(verify(&lines).unwrap().checkpoints, 3);
    // Without a key to believe, whoever signed it is named.
    assert_eq!(verify_with(&lines, None).unwrap().keys, [signer(7).public()]);
}

#[test]
fn each_kind_of_damage_is_named() {
    let lines = file(&chain(9, 4), 1, 3, &signer(7));
    let record = |n: u64| lines.iter().position(|line| line.contains(&format!("\"seq\":{n},\"key_id\""))).unwrap();
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        let bad = verify(&lines).unwrap_err();
        (bad.seq, bad.flaw)
    };
    assert_eq!(with(&|l| l[record(5)] = l[record(5)].replace("alice", "mallory")), (5, Flaw::Changed));
    assert_eq!(with(&|l| drop(l.remove(record(5)))), (5, Flaw::Gap));
    assert_eq!(with(&|l| l.swap(record(4), record(5))), (4, Flaw::Gap));
    assert_eq!(with(&|l| l.insert(record(5), l[record(4)].clone())), (5, Flaw::OutOfOrder(4)));
    for cut in 1..lines.len() {
        let (_, flaw) = with(&|l| l.truncate(cut));
        assert_eq!(flaw, Flaw::Cut, "after {cut} lines");
    }
    // The end is kept, and the records before it are not.
    let last = record(9);
    assert_eq!(with(&|l| drop(l.drain(last..=last + 1))), (9, Flaw::Gap));
    let first = record(1);
    assert_eq!(with(&|l| drop(l.remove(first))), (1, Flaw::Gap));
    let checkpoint = record(3) + 1;
    let flip = |line: &str| match line.rfind('0') {
        Some(at) => format!("{}1{}", &line[..at], &line[at + 1..]),
        None => line.replacen('1', "2", 1),
    };
    let (_, flaw) = with(&|l| l[checkpoint] = flip(&l[checkpoint]));
    assert_eq!(flaw, Flaw::Unbelieved(Unbelieved::WrongSignature));
    let (_, flaw) = with(&|l| l[checkpoint] = l[record(6) + 1].clone());
    assert_eq!(flaw, Flaw::OtherRecords(1));
    assert_eq!(with(&|l| l.push(l[record(9)].clone())).1, Flaw::Misplaced);
    assert_eq!(with(&|l| l[0] = "{}\n".into()).1, Flaw::NotOurs);
    assert_eq!(with(&|l| l[0] = l[0].replace("\"format\":1", "\"format\":2")).1, Flaw::Format(2));
    // A statement of one sort is never taken for the other.
    let (_, flaw) = with(&|l| l[checkpoint] = l.last().unwrap().replacen("\"end\"", "\"checkpoint\"", 1));
    assert_eq!(flaw, Flaw::Unbelieved(Unbelieved::WrongSignature));
}

/// Somebody without the key who makes the whole chain of hashes anew is found at the first checkpoint.
#[test]
fn a_chain_made_anew_needs_the_key() {
    let mut records = chain(9, 9);
    let original = file(&records, 1, 3, &signer(7));
    records[4].canonical =
        String::from_utf8(records[4].canonical.clone()).unwrap().replace("alice", "mallory").into_bytes();
    let mut head = Head::START;
    let rehashed: Vec<Head> = records
        .iter()
        .map(|record| {
            let hash =
                mezite_core::audit::chain::link(record.seq, &head.hash, &record.key_id, &record.mac, &record.canonical);
            head = Head { seq: record.seq, mac: head.mac, hash };
            head
        })
        .collect();
    let mut forged = original.clone();
    for (at, line) in forged.iter_mut().enumerate() {
        if let Ok(Line::Record(mut exported)) = serde_json::from_str(&original[at]) {
            let i = usize::try_from(exported.seq).unwrap() - 1;
            let text = String::from_utf8(records[i].canonical.clone()).unwrap();
            exported.hash = rehashed[i].hash;
            exported.event = serde_json::from_str(&text).unwrap();
            *line = Line::Record(exported).print().unwrap();
        }
    }
    let bad = verify(&forged).unwrap_err();
    assert_eq!((bad.seq, bad.flaw), (6, Flaw::OtherRecords(4)));
    let other = file(&chain(9, 9), 1, 3, &signer(8));
    assert_eq!(verify(&other).unwrap_err().flaw, Flaw::Unbelieved(Unbelieved::UnknownKey));
}

#[test]
fn a_log_is_held_against_the_checkpoints_of_an_export() {
    let records = chain(9, 4);
    let lines = file(&records, 1, 3, &signer(7));
    let trusted = [signer(7).public()];
    let marks: Vec<Mark> = lines
        .iter()
        .filter_map(|line| statement(line.trim_end()).unwrap())
        .map(|signed| mark(&signed, "example", &trusted).unwrap())
        .collect();
    assert_eq!(marks.iter().map(|mark| mark.seq).collect::<Vec<_>>(), [3, 6, 9, 9]);
    let verdict = |heads: &[Head]| {
        let mut held = Marks::new(marks.clone());
        heads.iter().for_each(|head| held.pass(head));
        held.verdict(heads.last().map_or(0, |head| head.seq))
    };
    let live = heads(&records);
    assert_eq!(verdict(&live), Ok(()));
    assert_eq!(verdict(&heads(&chain(20, 4))), Ok(()), "a log that went on");
    assert_eq!(verdict(&live[..8]), Err(Divergence::Shorter { mark: marks[2], end: 7 }));
    assert_eq!(verdict(&[]), Err(Divergence::Shorter { mark: marks[0], end: 0 }));
    // Restored at record 4, and written to since.
    let verdict = verdict(&heads(&chain(12, 3)));
    assert_eq!(verdict, Err(Divergence::Different { mark: marks[1], common: 3 }));
    let foreign = statement(lines.last().unwrap().trim_end()).unwrap().unwrap();
    assert_eq!(mark(&foreign, "other", &trusted), Err(Unbelieved::UnknownKey));
    assert_eq!(mark(&foreign, "example", &[signer(8).public()]), Err(Unbelieved::UnknownKey));
}

/// A digit of a MAC could be written in upper case, and the file verified.
#[test]
fn there_is_one_way_to_write_a_mac() {
    let lines = file(&chain(5, 2), 1, 2, &signer(7));
    verify(&lines).unwrap();
    let index = lines.iter().position(|line| line.contains("\"mac\"")).unwrap();
    let (before, mac) = lines[index].split_once("\"mac\":\"").unwrap();
    let letter = mac.find(|digit: char| digit.is_ascii_lowercase()).unwrap();
    let shouted = format!("{}{}", &mac[..letter], mac[letter..=letter].to_ascii_uppercase());
    let mut changed = lines.clone();
    changed[index] = format!("{before}\"mac\":\"{shouted}{}", &mac[letter + 1..]);
    assert!(verify(&changed).is_err(), "{}", changed[index]);
}

proptest! {
    /// Whatever byte of a file is changed, the file does not verify as another than it was.
    #[test]
    fn no_byte_of_an_export_can_be_changed(line in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), to in 0x20u8..0x7f) {
        let lines = file(&chain(5, 2), 1, 2, &signer(7));
        verify(&lines).unwrap();
        let mut changed = lines.clone();
        let line = line.index(changed.len());
        let mut bytes = changed[line].clone().into_bytes();
        let at = byte.index(bytes.len() - 1);
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        changed[line] = String::from_utf8(bytes).unwrap();
        prop_assert!(verify(&changed).is_err(), "{}", changed[line]);
    }
}
