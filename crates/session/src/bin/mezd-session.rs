//! The session starter as a program of its own, for a machine where it is linked apart from `mezd`.

fn main() {
    std::process::exit(mezite_session::run_starter());
}
