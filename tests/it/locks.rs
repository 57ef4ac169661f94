//! A lock cuts what runs, refuses what comes, and is lifted again.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::process::{Client, wait_for};
use crate::setup::Setup;
use crate::user::User;

/// The bound from the lock to the end of live sessions.
const BOUND: Duration = Duration::from_secs(5);
/// Life of a certificate that a test sees out.
const LIFE: Duration = Duration::from_secs(8);

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
        assert_eq!(out.code, 255, "ssh's own code, not one of a signal: {out:?}");
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

/// A session of `user` that `act` must end in time; what the user saw.
#[track_caller]
fn ended_by(setup: &Setup, user: &User, bound: Duration, act: impl FnOnce()) -> String {
    let mut session = Client::start(user.ssh_command(&[&setup.target(), "echo up; sleep 1000"]));
    session.expect("up");
    act();
    let begin = Instant::now();
    let out = session.wait();
    assert!(begin.elapsed() < bound, "it took {:?}", begin.elapsed());
    assert_ne!(out.code, 0, "{out:?}");
    wait_for("the list to be true", || setup.cluster.live(&user.name).is_empty());
    out.stderr
}

#[test]
fn a_role_that_no_longer_allows_ends_sessions() {
    let setup = Setup::shared();
    let role = |login: &str| {
        format!(
            "kind: role\nversion: v1\nmetadata: {{name: shrinking}}\nspec:\n  allow:\n    node_labels: {{env: test}}\n    \
             logins: [{login}]\n"
        )
    };
    setup.cluster.add_role(&role(&setup.os.name)).ok();
    let user = setup.somebody_with("shrinking");
    let told = ended_by(&setup, &user, BOUND, || drop(setup.cluster.add_role(&role("somebody-else")).ok()));
    assert!(told.contains("access denied"), "{told}");
}

#[test]
fn a_login_taken_from_a_user_ends_what_was_opened_with_it() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let update = ["users", "update", &user.name, "--logins=somebody-else"];
    let told = ended_by(&setup, &user, BOUND, || drop(setup.cluster.mezctl(&update).ok()));
    assert!(told.contains("logins"), "{told}");
    let text = user.msh(&["ssh", &setup.msh_target(), "--", "true"]).refused(255);
    assert!(text.contains("msh login"), "{text}");
}

#[test]
fn a_deleted_user_is_gone_at_once() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let name = format!("--username={}", user.name);
    ended_by(&setup, &user, BOUND, || drop(setup.cluster.mezctl(&["users", "delete", &name]).ok()));
    user.msh(&["ssh", &setup.msh_target(), "--", "true"]).refused(255);
    user.msh(&["ls"]).refused(5);
}

#[test]
fn a_session_does_not_outlive_its_certificate_or_its_role() {
    let setup = Setup::shared();
    let user = setup.somebody();
    user.try_login(&["--ttl=8s"], crate::cluster::USER_PASSWORD).ok();
    let told = ended_by(&setup, &user, LIFE + BOUND, || ());
    assert!(told.contains("certificate has expired"), "{told}");

    setup
        .cluster
        .add_role("kind: role\nversion: v1\nmetadata: {name: brief}\nspec:\n  options: {max_session_ttl: 8s}\n")
        .ok();
    let user = setup.somebody_with("access,brief");
    let told = ended_by(&setup, &user, LIFE + BOUND, || ());
    // The certificate lives no longer than the role lets a session live: whichever is noticed first.
    assert!(told.contains("longest session") || told.contains("certificate has expired"), "{told}");
}

#[test]
fn a_connection_that_only_forwards_is_an_event_and_ends_with_a_reason() {
    let setup = Setup::shared();
    let user = setup.somebody();
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = service.local_addr().unwrap().to_string();
    let mut client = Client::start(user.ssh_command(&["-W", &target, &setup.target()]));
    let (mut served, _) = service.accept().unwrap();
    served.write_all(b"hello").unwrap();
    client.expect("hello");
    wait_for("the event", || !setup.cluster.audit_of("session.port_forward", &user.name).is_empty());
    let event = &setup.cluster.audit_of("session.port_forward", &user.name)[0];
    assert_eq!((&event["details"]["target"], &event["success"]), (&target.into(), &true.into()), "{event:#?}");

    let lock = format!("--user={}", user.name);
    setup.cluster.mezctl(&["locks", "create", &lock, "--message=no forwards either"]).ok();
    let begin = Instant::now();
    let out = client.wait();
    assert!(begin.elapsed() < BOUND, "it took {:?}", begin.elapsed());
    assert!(out.stderr.contains("no forwards either"), "{out:?}");
}

/// What the roles bound beside time: connections of one user at once, and pauses.
#[test]
fn connections_are_counted_and_idle_sessions_end() {
    let setup = Setup::shared();
    let role = format!(
        "metadata: {{name: bounded}}\nspec:\n  options: {{max_connections: 1, client_idle_timeout: 3s}}\n  allow:\n    \
         node_labels: {{\"*\": \"*\"}}\n    logins: [{}]\n",
        setup.os.name
    );
    setup.cluster.add_role(&role).ok();
    let user = setup.somebody_with("bounded");
    let mut session = Client::start(user.ssh_command(&[&setup.target(), "echo up; cat; sleep 1000"]));
    session.expect("up");
    let text = user.msh(&["ssh", &setup.msh_target(), "--", "true"]).refused(255);
    assert!(text.contains("your roles allow 1 connection at a time"), "{text}");
    assert_eq!(setup.cluster.audit_of("access.denied", &user.name).len(), 1);

    let out = session.wait();
    assert!(out.stderr.contains("nothing was sent for 3s"), "{out:?}");
    wait_for("the end to be known", || {
        setup.cluster.audit_of("session.end", &user.name).iter().any(|event| event.to_string().contains("\"idle\""))
    });
    wait_for("the place to be free", || user.msh(&["ssh", &setup.msh_target(), "--", "true"]).code == 0);
}
