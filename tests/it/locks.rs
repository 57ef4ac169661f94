//! A lock cuts what runs, refuses what comes, and is lifted again.

use std::time::{Duration, Instant};

use crate::process::{Client, wait_for};
use crate::setup::Setup;
use crate::user::User;

/// The bound from the lock to the end of live sessions.
const BOUND: Duration = Duration::from_secs(5);

fn lives_and_dies(setup: &Setup, user: &User, kind: &str, name: &str, message: &str) {
    let mut stock = Client::start(user.ssh_command(&[&setup.target(), "echo up; sleep 1000"]));
    let mut ours = Client::start(user.msh_command(&["ssh", &setup.msh_target(), "--", "echo up; sleep 1000"]));
    stock.expect("up");
    ours.expect("up");
    assert_eq!(setup.cluster.live(&user.name).len(), 2);

    setup.cluster.mezctl(&["locks", "create", &format!("--{kind}={name}"), &format!("--message={message}")]).ok();
    let begin = Instant::now();
    for client in [&mut stock, &mut ours] {
        let out = client.wait();
        assert!(begin.elapsed() < BOUND, "it took {:?}", begin.elapsed());
        assert_ne!(out.code, 0, "{out:?}");
        assert!(out.stderr.contains(message), "{out:?}");
    }
    wait_for("the sessions to be over", || setup.cluster.live(&user.name).is_empty());

    let text = user.msh(&["ssh", &setup.msh_target(), "--", "true"]).refused(255);
    assert!(text.contains(message), "{text}");
    let out = user.ssh(&[&setup.target(), "true"]);
    assert_eq!(out.code, 255, "{out:?}");
    assert!(out.stderr.contains(message), "{out:?}");
    let denied = setup.cluster.audit_of("access.denied", &user.name);
    assert_eq!(denied.len(), 2, "one event for each refusal: {denied:#?}");
    assert!(denied.iter().all(|event| event["event_code"] == "T4004W"), "{denied:#?}");
    // No new certificate either, and at the door a locked user is told no more than a stranger.
    user.try_login(&[], crate::cluster::USER_PASSWORD).refused(5);

    setup.cluster.mezctl(&["locks", "delete", &format!("--target-type={kind}"), &format!("--target-name={name}")]).ok();
    wait_for("the lock to be lifted", || user.msh(&["ssh", &setup.msh_target(), "--", "true"]).code == 0);
    user.login();
}

#[test]
fn of_a_user() {
    let setup = Setup::shared();
    let user = setup.somebody();
    lives_and_dies(&setup, &user, "user", &user.name, "until the incident is over");
    assert!(!setup.cluster.audit("lock.create").is_empty() && !setup.cluster.audit("lock.delete").is_empty());
}

#[test]
fn of_a_role() {
    let setup = Setup::shared();
    setup.cluster.add_role("kind: role\nversion: v1\nmetadata: {name: lockable}\nspec: {}\n").ok();
    let user = setup.somebody_with("access,lockable");
    lives_and_dies(&setup, &user, "role", "lockable", "no work today");
}

#[test]
fn nobody_else_is_touched_and_a_lock_runs_out() {
    let setup = Setup::shared();
    let (locked, free) = (setup.somebody(), setup.somebody());
    let mut session = Client::start(free.ssh_command(&[&setup.target(), "echo up; cat"]));
    session.expect("up");
    setup.cluster.mezctl(&["locks", "create", &format!("--user={}", locked.name), "--ttl=3s", "--message=short"]).ok();
    locked.msh(&["ssh", &setup.msh_target(), "--", "true"]).refused(255);
    assert!(session.send("still here\n"));
    session.expect("still here");
    wait_for("the lock to run out", || locked.msh(&["ssh", &setup.msh_target(), "--", "true"]).code == 0);
}

#[test]
fn a_deleted_user_and_a_tightened_role_end_sessions_too() {
    let setup = Setup::shared();
    let role = |login: &str| {
        format!(
            "kind: role\nversion: v1\nmetadata: {{name: shrinking}}\nspec:\n  allow:\n    node_labels: {{env: test}}\n    logins: [{login}]\n"
        )
    };
    setup.cluster.add_role(&role(&setup.os.name)).ok();
    let user = setup.somebody_with("shrinking");
    let mut session = Client::start(user.ssh_command(&[&setup.target(), "echo up; sleep 1000"]));
    session.expect("up");
    setup.cluster.add_role(&role("somebody-else")).ok();
    let begin = Instant::now();
    let out = session.wait();
    assert!(begin.elapsed() < BOUND, "it took {:?}", begin.elapsed());
    assert_ne!(out.code, 0, "{out:?}");
}
