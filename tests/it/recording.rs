//! Recordings: whole, readable, tamper-evident, and shown to whom they belong.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::process::wait_for;
use crate::pty::Pty;
use crate::setup::Setup;
use crate::user::User;

/// A recorded shell of `user`; its session id.
fn recorded(setup: &Setup, user: &User, line: &str) -> String {
    let mut pty = Pty::start(&user.msh_command(&["ssh", &setup.msh_target()]), 80, 24);
    pty.prompt();
    pty.send(&format!("{line}; exit\r"));
    assert_eq!(pty.wait(), 0);
    let recording = setup.cluster.recording(&user.name);
    recording["session"]["id"].as_str().unwrap().to_owned()
}

fn files(setup: &Setup, id: &str) -> PathBuf {
    setup.cluster.path("hub/recordings").join(&id[..2]).join(id)
}

#[test]
fn a_recording_plays_and_verifies_and_an_edit_is_named() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let id = recorded(&setup, &user, "echo what was sh''own");

    let played = user.msh(&["play", "--speed=100", &id]).ok();
    assert!(played.contains("what was shown"), "{played}");
    assert!(setup.cluster.mezctl(&["recordings", "verify", &id]).ok().contains("whole"));
    let file = user.home().join("x.cast");
    setup.cluster.mezctl(&["recordings", "download", &id, &format!("--out={}", file.display())]).ok();
    let cast = fs::read_to_string(&file).unwrap();
    // Without --out it lands here, once.
    let here = || {
        let mut command = setup.cluster.mezctl_command();
        command.current_dir(user.home()).args(["recordings", "download", &id]);
        crate::process::run(command, b"")
    };
    assert!(here().ok().contains(&format!("{id}.cast")));
    assert_eq!(fs::read_to_string(user.home().join(format!("{id}.cast"))).unwrap(), cast);
    assert!(here().refused(1).contains("--out"));
    let head: Value = serde_json::from_str(cast.lines().next().unwrap()).unwrap();
    assert_eq!((&head["version"], &head["width"], &head["height"]), (&2.into(), &80.into(), &24.into()));
    assert!(cast.lines().skip(1).all(|line| serde_json::from_str::<(f64, String, String)>(line).is_ok()), "{cast}");
    assert!(user.msh(&["play", "--speed=100", &file.display().to_string()]).ok().contains("what was shown"));

    // One bit of one stored chunk: of its head, its middle, its end.
    let dir = files(&setup, &id);
    let chunk = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "chunk"))
        .unwrap();
    let whole = fs::read(&chunk).unwrap();
    for at in [0, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&chunk, bytes).unwrap();
        let out = setup.cluster.mezctl(&["recordings", "verify", &id]);
        assert_eq!(out.code, 1, "byte {at}: {out:?}");
        assert!(out.stderr.contains(&id) && out.stderr.contains("chunk 0"), "byte {at}: {out:?}");
    }
    assert!(!setup.cluster.audit("session.recording.damaged").is_empty());
}

#[test]
fn a_missing_end_and_a_forged_seal_are_detected() {
    let setup = Setup::shared();
    for forge in [false, true] {
        let user = setup.somebody();
        let id = recorded(&setup, &user, "echo x");
        let seal = files(&setup, &id).join("seal.json");
        if forge {
            let mut text: Value = serde_json::from_str(&fs::read_to_string(&seal).unwrap()).unwrap();
            text["seal"]["duration_ms"] = 1.into();
            fs::write(&seal, format!("{text}\n")).unwrap();
        } else {
            let last = fs::read_dir(files(&setup, &id))
                .unwrap()
                .map(|e| e.unwrap().path())
                .filter(|p| p.extension().is_some_and(|e| e == "chunk"))
                .max()
                .unwrap();
            fs::remove_file(last).unwrap();
        }
        let out = setup.cluster.mezctl(&["recordings", "verify", &id]);
        assert_eq!(out.code, 1, "forged seal {forge}: {out:?}");
        assert!(out.stderr.contains(&id), "{out:?}");
    }
}

#[test]
fn users_see_their_own_and_administrators_and_auditors_all() {
    let setup = Setup::shared();
    let (owner, other, auditor) = (setup.somebody(), setup.somebody(), setup.somebody_with("auditor"));
    let id = recorded(&setup, &owner, "echo mine");
    assert!(owner.msh(&["sessions", "ls"]).ok().contains(&id));
    assert!(!other.msh(&["sessions", "ls"]).ok().contains(&id));
    assert!(auditor.msh(&["sessions", "ls"]).ok().contains(&id));
    assert!(auditor.msh(&["play", "--speed=100", &id]).ok().contains("mine"));
    assert!(setup.cluster.mezctl(&["recordings", "ls"]).ok().contains(&id));

    // What is not one's own looks like what does not exist.
    let unknown = "00000000-0000-4000-8000-000000000000";
    let (theirs, nobodys) = (other.msh(&["play", &id]), other.msh(&["play", unknown]));
    assert_eq!(theirs.code, nobodys.code);
    assert_eq!(theirs.refused(3).replace(&id, "ID"), nobodys.refused(3).replace(unknown, "ID"));
}

#[test]
fn a_command_is_recorded_with_its_line_and_output() {
    let setup = Setup::shared();
    let user = setup.somebody();
    user.ssh(&[&setup.target(), "echo from a command; echo and an error >&2"]).ok();
    let recording = setup.cluster.recording(&user.name);
    let session = &recording["session"];
    assert_eq!(
        (&session["kind"], &session["command"]),
        (&"exec".into(), &"echo from a command; echo and an error >&2".into())
    );
    let played = user.msh(&["play", "--speed=100", session["id"].as_str().unwrap()]).ok();
    assert!(played.contains("from a command") && played.contains("and an error"), "{played}");
}

#[test]
fn no_option_of_the_client_turns_recording_off() {
    let setup = Setup::shared();
    let user = setup.somebody();
    for (n, args) in
        [vec!["-T"], vec!["-tt"], vec!["-o", "RequestTTY=no"], vec!["-o", "SetEnv=MEZITE_RECORDING_MODE=off LC_ALL=C"]]
            .iter()
            .enumerate()
    {
        let mut all: Vec<&str> = args.clone();
        let (target, line) = (setup.target(), format!("echo number {n}"));
        all.extend([target.as_str(), &line]);
        user.ssh(&all).ok();
        wait_for("its recording", || {
            setup.cluster.mezctl_json(&["recordings", "ls", &format!("--user={}", user.name)]).len() == n + 1
        });
    }
}

/// Output of another user's terminal cannot take over the one it is played in.
#[test]
fn escape_sequences_that_could_do_harm_are_not_played() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let id = recorded(&setup, &user, r"printf '\033]0;title\007\033]52;c;ZXZpbA==\007\033[6n\033[31mred\033[0m\n'");
    let played = user.msh(&["play", "--speed=100", &id]).ok();
    assert!(played.contains("red"), "{played:?}");
    assert!(!played.contains("\x1b]52") && !played.contains("\x1b[6n") && !played.contains("\x1b]0;"), "{played:?}");
    assert!(user.msh(&["play", "--raw", "--speed=100", &id]).ok().contains("\x1b]52;c;"));
}
