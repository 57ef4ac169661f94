//! The session starter as the tests run it: as `mezd` does, or with the PAM stack of the service named after the argument.

fn main() {
    #[cfg(feature = "pam")]
    if let Some(service) = std::env::args().nth(2) {
        std::process::exit(mezite_session::run_starter_with_pam(&service));
    }
    std::process::exit(mezite_session::run_starter());
}
