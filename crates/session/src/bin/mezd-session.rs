//! The session starter with the machine's PAM stack. `mezd` runs it where it lies beside `mezd`.

fn main() {
    std::process::exit(mezite_session::run_starter_with_pam(mezite_session::pam_service()));
}
