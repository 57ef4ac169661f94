//! `docs/reference/events.md` and `docs/reference/settings.md` are generated from the tables in the code.

use std::fmt::Write;

use mezite_core::audit::EventType;
use mezite_core::kind::config::SETTINGS;

fn held(name: &str, text: &str) {
    let path = format!("{}/../../docs/reference/{name}", env!("CARGO_MANIFEST_DIR"));
    if option_env!("MEZITE_UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert!(std::fs::read_to_string(&path).unwrap_or_default() == text, "{name}: run `make docs`");
}

#[test]
fn reference_events_page_is_up_to_date() {
    let mut text = String::from(
        "# Audit events\n\nGenerated from `crates/core/src/audit/types.rs`. A code never changes its meaning; the last letter says \
         whether it is information (I) or a warning (W).\n\n| code | type | meaning |\n|---|---|---|\n",
    );
    for kind in EventType::ALL {
        writeln!(text, "| `{}` | `{}` | {} |", kind.code(), kind.name(), kind.meaning()).unwrap();
    }
    held("events.md", &text);
}

#[test]
fn reference_settings_page_is_up_to_date() {
    let mut text = String::from(
        "# Cluster settings\n\nGenerated from `crates/core/src/kind/config.rs`. Read and changed at run time by `mezctl config get` and \
         `mezctl config set`; everything else is in the configuration file.\n\n| key | default | meaning |\n|---|---|---|\n",
    );
    for setting in SETTINGS {
        writeln!(text, "| `{}` | `{}` | {} |", setting.key, setting.default, setting.meaning).unwrap();
    }
    held("settings.md", &text);
}
