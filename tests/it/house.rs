//! The cut of the house: which room may name which, read from the manifests and the lock file (ARCHITECTURE.md).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every edge between rooms that may exist. An edge that is not here is forbidden.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("ssh", &[]),
    ("core", &[]),
    ("session", &[]),
    ("proto", &["core"]),
    ("store", &["core"]),
    ("record", &["core", "proto"]),
    ("net", &["core", "ssh", "proto"]),
    ("auth", &["core", "proto", "store", "net", "ssh", "record"]),
    ("proxy", &["core", "proto", "net", "ssh", "record"]),
    ("agent", &["core", "proto", "net", "ssh", "record", "session"]),
    ("client", &["core", "proto", "net", "ssh"]),
];

/// Outside crates that a pure room may use. Sockets, clocks, databases and runtimes are not among them.
const PURE_MAY_USE: &[(&str, &[&str])] = &[
    ("ssh", &["aws-lc-rs", "base64", "bytes", "thiserror", "zeroize"]),
    ("core", &["aws-lc-rs", "base64", "regex", "serde", "serde-saphyr", "serde_json", "thiserror", "time"]),
];

/// What the source of a pure room must not mention.
const IMPURE: &[&str] =
    &["tokio", "std::fs", "std::env", "std::net::Tcp", "SystemTime::now", "Instant::now", "OffsetDateTime::now"];

/// Second TLS stacks, unmaintained parsers, and what cannot be linked statically.
const BANNED: &[&str] = &["openssl-sys", "native-tls", "ring", "libudev-sys", "serde_yaml", "serde_yml", "chrono"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The `[dependencies]` of a manifest, by name.
fn dependencies(manifest: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(manifest).unwrap();
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            found.insert(line.split(['.', '=', ' ']).next().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn no_room_names_what_it_must_not() {
    let allowed: BTreeMap<_, BTreeSet<_>> =
        MAY_NAME.iter().map(|(room, may)| (*room, may.iter().copied().collect())).collect();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let room = entry.unwrap().file_name().into_string().unwrap();
        let may = allowed.get(room.as_str()).unwrap_or_else(|| panic!("room {room} has no row in MAY_NAME"));
        for name in dependencies(&root().join("crates").join(&room).join("Cargo.toml")) {
            if let Some(other) = name.strip_prefix("mezite-") {
                assert!(may.contains(other), "{room} must not name {other}");
            }
        }
    }
}

#[test]
fn pure_rooms_use_only_pure_crates() {
    for (room, may) in PURE_MAY_USE {
        for name in dependencies(&root().join("crates").join(room).join("Cargo.toml")) {
            assert!(may.contains(&name.as_str()), "{room} is pure and must not depend on {name}");
        }
    }
}

#[test]
fn pure_rooms_do_no_io() {
    fn walk(dir: &Path, visit: &mut dyn FnMut(&Path, &str)) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, visit);
            } else if path.extension().is_some_and(|e| e == "rs") {
                visit(&path, &fs::read_to_string(&path).unwrap());
            }
        }
    }
    for (room, _) in PURE_MAY_USE {
        walk(&root().join("crates").join(room).join("src"), &mut |path, text| {
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            if path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests") {
                return;
            }
            for line in code.lines().filter(|l| !l.trim_start().starts_with("//")) {
                for word in IMPURE {
                    assert!(!line.contains(word), "{}: pure rooms do not use {word}: {line}", path.display());
                }
            }
        });
    }
}

#[test]
fn banned_crates_are_not_built() {
    // The lock file also names what no feature asks for, so the tree is asked.
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--locked", "--edges=normal,build", "--prefix=none", "--format={p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let built: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(built.contains("aws-lc-rs"), "the tree cannot be read");
    for name in BANNED {
        assert!(!built.contains(name), "{name} must not be in the tree");
    }
}

#[test]
fn flows_name_files_that_exist() {
    for entry in fs::read_dir(root().join("docs/flows")).unwrap() {
        let flow = entry.unwrap().path();
        let text = fs::read_to_string(&flow).unwrap();
        let paths: Vec<_> = text.split('`').filter(|w| w.contains('/') && w.ends_with(".rs")).collect();
        assert!(!paths.is_empty(), "{} names no file", flow.display());
        for path in paths {
            assert!(root().join(path).is_file(), "{} names {path}, which does not exist", flow.display());
        }
    }
}

#[test]
fn the_testing_page_names_tests_that_exist() {
    let page = fs::read_to_string(root().join("docs/testing.md")).unwrap();
    let mut seen = 0;
    for row in page.lines().filter(|line| line.starts_with('|')) {
        let mut source = String::new();
        for word in row.split('`').skip(1).step_by(2) {
            if word.ends_with(".rs") {
                source = fs::read_to_string(root().join(word)).unwrap_or_else(|e| panic!("{word}: {e}"));
            } else if !source.is_empty()
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            {
                assert!(source.contains(&format!("fn {word}(")), "docs/testing.md names {word}, which is not there");
                seen += 1;
            }
        }
    }
    assert!(seen > 40, "{seen}");
}
