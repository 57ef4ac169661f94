//! Second factors, by the commands of the guide.

use mezite_core::totp;
use serde_json::Value;

use crate::cluster::USER_PASSWORD;
use crate::process::Client;
use crate::setup::Setup;
use crate::user::User;

const GUIDE: &str = include_str!("../../docs/guides/mfa.md");

/// The secret in the address that authenticators read (RFC 4648 section 6).
fn secret(uri: &str) -> Vec<u8> {
    let text = uri.split_once("secret=").unwrap().1.split('&').next().unwrap();
    let values: Vec<u64> = text.bytes().map(|c| u64::from(if c >= b'A' { c - b'A' } else { c - b'2' + 26 })).collect();
    let bytes = values.chunks(8).flat_map(|eight| {
        let number = eight.iter().fold(0, |number, five| number << 5 | five);
        number.to_be_bytes()[3..].to_vec()
    });
    bytes.collect()
}

fn step() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    totp::step(since.as_secs())
}

/// Enrols `phone`: its secret, and the step whose code was used. The code of the next step is good for a while yet.
fn enrol(user: &User) -> (Vec<u8>, u64) {
    let mut client = Client::start(user.msh_command(&["mfa", "add", "--type=totp", "--name=phone", "--format=json"]));
    client.expect("}\n");
    let shown: Value = serde_json::from_str(&client.out.text()).unwrap();
    let (secret, step) = (secret(shown["uri"].as_str().unwrap()), step());
    client.send(&format!("{}\n", totp::code(&secret, step)));
    client.wait().ok();
    (secret, step)
}

#[test]
fn the_guide_works() {
    for command in [
        "msh mfa add --type=totp --name=phone",
        "msh mfa ls",
        "msh mfa rm phone",
        "--password-stdin --otp=\"$CODE\"",
        "mezctl users list-mfa alice",
        "mezctl users reset-totp alice",
    ] {
        assert!(GUIDE.contains(command), "{command} is not in the guide");
    }
    let setup = Setup::shared();
    let (cluster, user) = (&setup.cluster, setup.somebody());
    let (secret, step) = enrol(&user);
    let used = totp::code(&secret, step);
    let next = totp::code(&secret, step + 1);
    assert!(user.msh(&["mfa", "ls"]).ok().contains("phone"));
    assert!(cluster.mezctl(&["users", "list-mfa", &user.name]).ok().contains("phone"));

    let login = |more: &[&str], lines: &str| {
        let password = format!("{USER_PASSWORD}{lines}");
        user.try_login(more, &password)
    };
    let otp = |code: &str| format!("--otp={code}");
    login(&[], "").refused(6);
    let refused = login(&[&otp("000000x")], "").refused(5);
    assert!(refused.contains("the user name, the password or the code is wrong"), "{refused}");
    assert_eq!(login(&[&otp(&used)], "").refused(5), refused, "the code of the enrolment is used up");
    login(&[], &format!("\n{next}")).ok();
    assert_eq!(login(&[&otp(&next)], "").refused(5), refused, "a code is good once");
    user.msh(&["mfa", "rm", "phone", &otp(&next)]).refused(4);

    let shown = cluster.mezctl(&["users", "reset-totp", &user.name]).ok();
    assert!(shown.contains("removed"), "{shown}");
    login(&[], "").ok();
    let (secret, step) = enrol(&user);
    user.msh_with(&["mfa", "rm", "phone"], format!("{}\n", totp::code(&secret, step + 1)).as_bytes()).ok();
    login(&[], "").ok();
    assert_eq!(cluster.audit_of("user.mfa.added", &user.name).len(), 2);
}

#[test]
fn an_administrator_with_a_factor_logs_in_by_mezctl() {
    let setup = Setup::shared();
    let user = setup.somebody_with("admin");
    let (secret, step) = enrol(&user);
    let login = ["login", "--username", &user.name, "--password-stdin"];
    let lines = format!("{USER_PASSWORD}\n{}\n", totp::code(&secret, step + 1));
    assert_eq!(setup.cluster.mezctl_with(&login, lines.as_bytes()).ok().trim().len(), 64);
    assert_eq!(setup.cluster.mezctl_with(&login, lines.as_bytes()).code, 5, "a code is good once");
}
