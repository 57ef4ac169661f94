//! Lists and playback.

use crate::hub::{Hub, Plan, SESSION};
use crate::user::User;

#[tokio::test]
async fn lists_are_as_documented() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::of(&hub).await;
    let all = user.msh(&["ls"]).await;
    let lines = "HOSTNAME  ROLE  STATUS   LABELS        VERSION\n\
                 db        node  offline  -             -\n\
                 web       node  online   a=b,env=prod  0.1.0\n";
    assert_eq!(all.stdout, lines, "{}", all.stderr);
    let both = user.msh(&["ls", "--filter=env=prod", "--filter=a=b"]).await.stdout;
    assert!(both.contains("web") && !both.contains("db"), "{both}");
    assert_eq!(user.msh(&["ls", "--filter=env=prod", "--filter=a=c"]).await.stdout.lines().count(), 1);
    let json = user.msh(&["ls", "--format=json"]).await.stdout;
    assert!(json.starts_with("[\n") && json.contains("\"hostname\": \"web\""), "{json}");
    let sessions = user.msh(&["sessions", "ls"]).await.stdout;
    assert!(sessions.starts_with("SESSION ID ") && sessions.contains(SESSION), "{sessions}");
    assert!(sessions.ends_with("alice  web   ubuntu  2026-04-11T10:28:35Z  2026-04-11T10:41:09Z\n"), "{sessions}");
}

#[tokio::test]
async fn a_recording_plays_without_what_could_change_the_terminal() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::of(&hub).await;
    let played = user.msh(&["play", SESSION]).await;
    assert_eq!((played.code, played.stdout.as_str()), (0, "hello world\r\n"), "{}", played.stderr);
    let raw = user.msh(&["play", "--raw", "--speed=2", SESSION]).await;
    assert_eq!(raw.stdout, "hello world\u{1b}]0;title\u{7}\r\n");
    let other = user.msh(&["play", "00000000-0000-0000-0000-000000000000"]).await;
    assert_eq!((other.code, other.stdout.as_str()), (3, ""), "{}", other.stderr);
    std::fs::write(user.path("x.cast"), "not a recording\n").unwrap();
    let bad = user.msh(&["play", user.path("x.cast").to_str().unwrap()]).await;
    assert!(bad.code == 1 && bad.stderr.contains("not a recording"), "{}", bad.stderr);
    assert_eq!(user.msh(&["play", "--speed=0", SESSION]).await.code, 2);
}

#[tokio::test]
async fn a_damaged_recording_is_played_as_far_as_it_goes_and_told_of() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::of(&hub).await;
    let header = "{\"version\":2,\"width\":80,\"height\":24}\n";
    for (rest, shown, code, told) in [
        ("[0,\"o\",\"a\"]\n[0,\"o\",\"b", "a", 1, "damaged: the recording ends in the middle of line 3"),
        (
            "[0,\"o\",\"a\"]\nx\n[0,\"o\",\"c\"]\n",
            "ac",
            1,
            "line 3 of the recording is not an event; bad lines are left out",
        ),
        ("", "", 0, "the recording holds no output"),
    ] {
        std::fs::write(user.path("x.cast"), format!("{header}{rest}")).unwrap();
        let played = user.msh(&["play", user.path("x.cast").to_str().unwrap()]).await;
        assert_eq!((played.stdout.as_str(), played.code), (shown, code), "{}", played.stderr);
        assert!(played.stderr.contains(told), "{}", played.stderr);
    }
    std::fs::write(user.path("x.cast"), "").unwrap();
    let empty = user.msh(&["play", user.path("x.cast").to_str().unwrap()]).await;
    assert!(empty.code == 1 && empty.stderr.contains("the recording is empty"), "{}", empty.stderr);
}
