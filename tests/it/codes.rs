//! The table of event codes and the code that writes events say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// Variant and code of each type of event.
fn table() -> BTreeMap<String, String> {
    let types = fs::read_to_string(root().join("crates/core/src/audit/types.rs")).unwrap();
    let body = types.split("\nevent_types! {\n").nth(1).unwrap().split("\n}\n").next().unwrap();
    let row = |line: &str| {
        let mut parts = line.split('"');
        let variant = parts.next().unwrap().trim().to_owned();
        (variant, parts.nth(2).unwrap().to_owned())
    };
    body.lines().map(row).collect()
}

/// The variants that the programs name where they make events: not in tests, nor in the list of what machines may report.
fn emitted() -> BTreeSet<String> {
    let mut files = Vec::new();
    for part in ["crates", "programs"] {
        for room in fs::read_dir(root().join(part)).unwrap() {
            sources(&room.unwrap().path().join("src"), &mut files);
        }
    }
    let mut found = BTreeSet::new();
    for file in files.iter().filter(|file| !file.ends_with("core/src/audit/types.rs")) {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let (before, list) = code.split_once("const REPORTED").unwrap_or((code, ""));
        let after = list.split_once("];").map_or("", |(_, after)| after);
        for text in [before, after] {
            for prefix in ["EventType::", " E::", "[E::", "(E::"] {
                let named = text.split(prefix).skip(1);
                found.extend(named.map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned()));
            }
        }
    }
    found
}

#[test]
fn every_documented_code_is_emitted_and_every_emitted_one_is_documented() {
    let (table, emitted) = (table(), emitted());
    assert!(table.len() > 40 && table["SessionStart"] == "T2000I", "{table:?}");
    let idle: Vec<_> = table.iter().filter(|(variant, _)| !emitted.contains(*variant)).collect();
    assert!(idle.is_empty(), "documented and never emitted: {idle:?}");
    let page = fs::read_to_string(root().join("docs/reference/events.md")).unwrap();
    let missing: Vec<_> = table.values().filter(|code| !page.contains(&format!("| `{code}` |"))).collect();
    assert!(missing.is_empty(), "emitted and not documented: {missing:?}");
}
