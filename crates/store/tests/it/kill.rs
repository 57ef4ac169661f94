//! What was acknowledged survives `kill -9`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use mezite_core::audit::checkpoint::Marks;
use mezite_core::audit::{Event, EventType};
use mezite_core::kind::{Role, RoleSpec};
use mezite_store::{AuditFilter, Expect, Options, Page, Recordings, Store};

use crate::{NOW, keys};

const ID: &str = "1b4e28ba-2fa1-41d2-883f-0016d3cca427";

async fn open(dir: &Path) -> (Store, Recordings) {
    let options = Options { path: dir.join("mezhub.db"), readers: 1, audit_keys: keys() };
    (Store::open(options).await.unwrap(), Recordings::open(dir.join("recordings")).await.unwrap())
}

/// The process that is killed: writes into its working directory for ever and says each time that it is done.
#[tokio::test]
#[ignore = "started by the test below"]
async fn write_for_ever() {
    let (store, recordings) = open(Path::new(".")).await;
    recordings.begin(ID, Bytes::new()).await.unwrap();
    for n in 0_u64.. {
        let mut tx = store.begin(NOW).await.unwrap();
        tx.put::<Role>(&format!("r{n}"), &RoleSpec::default(), Expect::Absent).await.unwrap();
        tx.audit(&Event::new(EventType::UserLogin, format!("e{n}"), NOW)).await.unwrap();
        tx.commit().await.unwrap();
        recordings.append(ID, n, Bytes::from(format!("chunk {n}"))).await.unwrap();
        println!("done {n}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    const ENOUGH: usize = 30;
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "kill::write_for_ever"])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let done = lines.filter(|line| line.contains("done ")).take(ENOUGH).count();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(done, ENOUGH);

    let (store, recordings) = open(dir.path()).await;
    let roles = store.all::<Role>().await.unwrap().len();
    assert!(roles >= done);
    let events = store.audit_events(&AuditFilter::default(), &Page::default()).await.unwrap().items.len();
    assert_eq!(events, roles, "a change and its event stand or fall together");
    assert_eq!(store.verify_audit(Marks::default()).await.unwrap().bad, None);
    let held = recordings.held(ID).await.unwrap();
    assert!(held >= done.try_into().unwrap());
    for n in 0..held {
        assert_eq!(recordings.chunk(ID, n).await.unwrap().unwrap(), format!("chunk {n}"));
    }
}
