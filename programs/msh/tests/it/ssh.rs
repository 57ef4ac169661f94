//! `msh ssh`.

use crate::hub::{Hub, Plan};
use crate::user::User;

#[tokio::test]
async fn a_command_runs_and_its_status_comes_back() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::of(&hub).await;
    let run =
        user.msh(&["ssh", "--login=ubuntu", "web", "--", "echo", "out;", "echo", "err", ">&2;", "exit", "7"]).await;
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (7, "out\n", "err\n"));
    assert_eq!(*hub.state.named.lock().unwrap(), [r#"{"login":"ubuntu"}"#]);
    let killed = user.msh(&["ssh", "alice@web", "kill -TERM $$"]).await;
    assert!(killed.code == 143 && killed.stderr.contains("SIGTERM"), "{}", killed.stderr);
}

#[tokio::test]
async fn the_end_of_input_is_not_the_end_of_the_session() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::of(&hub).await;
    let run = user.run(&["ssh", "ubuntu@web", "wc -c; echo after"], &"x".repeat(300_000)).await;
    assert_eq!((run.code, run.stdout.replace(' ', "").as_str()), (0, "300000\nafter\n"), "{}", run.stderr);
}

#[tokio::test]
async fn failures_of_ours_are_255_and_say_why() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::of(&hub).await;
    let absent = user.msh(&["ssh", "ubuntu@absent", "true"]).await;
    assert!(absent.code == 255 && absent.stderr.contains("no node of this name\\u{1b}[2J"), "{}", absent.stderr);
    for flag in ["-L", "-R", "-D"] {
        let forward = user.msh(&["ssh", flag, "1:h:1", "web"]).await;
        assert!(forward.code == 255 && forward.stderr.contains("msh config --append"), "{flag}: {}", forward.stderr);
    }
    assert_eq!(user.msh(&["ssh", "--login=a", "b@web"]).await.code, 255);
    let stranger = User::new().msh(&["ssh", "ubuntu@web"]).await;
    assert!(stranger.code == 255 && stranger.stderr.contains("msh login"), "{}", stranger.stderr);
}

#[tokio::test]
async fn a_node_with_another_name_is_not_believed() {
    let hub = Hub::start(Plan { node_name: "web2", ..Plan::default() }).await;
    let user = User::of(&hub).await;
    let run = user.msh(&["ssh", "ubuntu@web", "true"]).await;
    assert!(run.code == 255 && run.stderr.contains("is not valid for \"web\""), "{}", run.stderr);
}

#[tokio::test]
async fn both_clocks_are_named_when_a_certificate_is_out_of_time() {
    for (validity, sentence) in [
        ((-7200, -3600), "ssh: certificate expired: it ended at "),
        ((3600, 7200), "ssh: certificate not yet valid: it starts at "),
    ] {
        let hub = Hub::start(Plan { validity, ..Plan::default() }).await;
        let user = User::of(&hub).await;
        let run = user.msh(&["ssh", "ubuntu@web", "true"]).await;
        assert!(run.code == 255 && run.stderr.contains(sentence) && run.stderr.contains("clock"), "{}", run.stderr);
        // A certificate from the future looks healthy: it is the clocks that differ (F395).
        assert_eq!(user.msh(&["status"]).await.code, if validity.1 > 0 { 0 } else { 5 });
    }
}

#[tokio::test]
async fn a_refusal_is_given_in_the_words_of_the_node() {
    let expired = "ssh: certificate expired: it ended at A, and the clock here says B";
    for (refusal, wanted) in [("locked: no work\u{1b}[2J today", "locked: no work\\u{1b}[2J today"), (expired, expired)]
    {
        let hub = Hub::start(Plan { refusal: Some(refusal), ..Plan::default() }).await;
        let user = User::of(&hub).await;
        let run = user.msh(&["ssh", "ubuntu@web", "true"]).await;
        assert!(run.code == 255 && run.stderr.contains(wanted), "{}", run.stderr);
    }
}
