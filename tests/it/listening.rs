//! An agent dials out and listens nowhere, but for a user who asks for it.

use std::collections::BTreeSet;
use std::fs;

use crate::process::Client;
use crate::setup::Setup;

/// Inodes of the sockets that a process holds.
fn sockets(pid: i32) -> BTreeSet<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect()
}

/// Inodes of the TCP sockets that listen, and of bound UDP sockets.
fn listeners() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (table, state) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
        let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        let rows = text.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
        found.extend(
            rows.filter(|row| row.get(3) == Some(&state)).filter_map(|row| row.get(9).map(|inode| (*inode).to_owned())),
        );
    }
    found
}

#[test]
fn an_agent_has_no_listening_port() {
    // Of its own: users of the shared one may ask for remote forwards.
    let setup = Setup::new();
    let session = Client::start(setup.alice.ssh_command(&[&setup.target(), "echo up; sleep 1000"]));
    session.expect("up");
    let agent = sockets(setup.cluster.agents["node-1"].pid());
    assert!(!agent.is_empty());
    assert!(agent.is_disjoint(&listeners()));
    // The same look at the hub finds its doors.
    assert!(sockets(setup.cluster.hub.pid()).intersection(&listeners()).count() >= 4);
}
