//! Stock OpenSSH by the generated configuration.

use std::fs;

use crate::hub::{Hub, Plan};
use crate::user::{User, run};

#[tokio::test]
async fn plain_ssh_works_after_append() {
    let hub = Hub::start(Plan::default()).await;
    let user = User::of(&hub).await;
    let config = user.path(".ssh/config");
    for _ in 0..2 {
        let appended = user.msh(&["config", "--append"]).await;
        assert_eq!(appended.code, 0, "{}", appended.stderr);
    }
    let text = fs::read_to_string(&config).unwrap();
    assert_eq!(text.matches("\nHost web.production.mezite web.mezite\n").count(), 1, "{text}");
    for host in ["ubuntu@web.mezite", "ubuntu@web.production.mezite"] {
        let mut ssh = user.command("ssh");
        ssh.arg("-F").arg(&config).args(["-o", "BatchMode=yes", host, "cat; exit 9"]);
        let done = run(&mut ssh, "through").await;
        assert_eq!((done.code, done.stdout.as_str()), (9, "through"), "{}", done.stderr);
    }
    assert_eq!(*hub.state.named.lock().unwrap(), [r#"{"login":"ubuntu"}"#; 2]);

    let mut hostile = user.command("ssh");
    hostile.arg("-F").arg(&config).args(["-o", "BatchMode=yes", "-l", "$(touch pwned)$HOME", "web.mezite"]);
    assert_eq!(run(hostile.current_dir(user.path("")), "").await.code, 255);
    assert!(!user.path("pwned").exists());

    assert_eq!(user.msh(&["config", "--remove"]).await.code, 0);
    assert!(!fs::read_to_string(&config).unwrap().contains("mezite"));
}

#[tokio::test]
async fn a_node_with_another_name_is_refused_by_openssh() {
    let hub = Hub::start(Plan { node_name: "web2", ..Plan::default() }).await;
    let user = User::of(&hub).await;
    assert_eq!(user.msh(&["config", "--append"]).await.code, 0);
    let mut ssh = user.command("ssh");
    ssh.arg("-F").arg(user.path(".ssh/config")).args(["-o", "BatchMode=yes", "ubuntu@web.mezite", "true"]);
    let done = run(&mut ssh, "").await;
    assert!(done.code == 255 && done.stderr.contains("not a listed principal"), "{}", done.stderr);
}
