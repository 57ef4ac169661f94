//! Second factors, by the commands of the guide.

use mezite_core::totp;
use serde_json::Value;

use crate::cluster::USER_PASSWORD;
use crate::process::{Client, wait_for};
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

fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn step() -> u64 {
    totp::step(seconds())
}

/// Enrols `phone`: its secret, and the step whose code was used. The code of the next step is good for a while yet.
fn enrol(user: &User) -> (Vec<u8>, u64) {
    enrol_with(user, step)
}

/// Enrols with the code before the present one: the secret, and the present step, whose code and the next are unused.
pub(crate) fn enrol_early(user: &User) -> (Vec<u8>, u64) {
    // The step must not end while the code is on its way.
    wait_for("the beginning of a step", || seconds() % totp::STEP < 20);
    let (secret, used) = enrol_with(user, || step() - 1);
    (secret, used + 1)
}

fn enrol_with(user: &User, step: impl FnOnce() -> u64) -> (Vec<u8>, u64) {
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
        "mezctl roles create --from-file=careful.yaml",
        "mezctl users update alice --roles=careful",
        "msh ssh --mfa-code=\"$CODE\" ubuntu@web-1 -- uptime",
        "(ubuntu@web-1.mezite) MFA code:",
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
fn the_role_of_the_guide_asks_for_a_code_and_a_password_is_changed_with_one() {
    let setup = Setup::shared();
    let (cluster, user) = (&setup.cluster, setup.somebody());
    let yaml = GUIDE.split_once("```yaml careful.yaml\n").unwrap().1.split_once("```").unwrap().0;
    cluster.mezctl_with(&["roles", "create", "--from-file=-"], yaml.as_bytes()).ok();
    let (secret, step) = enrol_early(&user);
    cluster.mezctl(&["users", "update", &user.name, "--roles=careful"]).ok();
    user.try_login(&["--otp", &totp::code(&secret, step)], USER_PASSWORD).ok();
    let uptime = |more: &[&str]| user.msh(&[&["ssh"], more, &[&setup.msh_target(), "--", "uptime"]].concat());
    uptime(&[]).refused(255);
    let code = totp::code(&secret, step + 1);
    assert!(uptime(&[&format!("--mfa-code={code}")]).ok().contains("load average"));
    uptime(&[]).ok();

    let passwd = |more: &[&str], lines: &str| {
        let lines = format!("{USER_PASSWORD}\nanother fine password\n{lines}");
        user.msh_with(&[&["passwd", "--password-stdin"], more].concat(), lines.as_bytes())
    };
    passwd(&[], "").refused(6);
    passwd(&["--otp", &code], "").refused(4);
    wait_for("the next step", || self::step() > step);
    passwd(&[], &format!("{}\n", totp::code(&secret, step + 2))).ok();
    user.try_login(&[], "another fine password").refused(6);
    uptime(&[]).refused(255);
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
