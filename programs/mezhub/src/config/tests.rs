use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::environment::KEYS;
use super::sections::Level;
use super::{Config, ConfigError, Format};

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let env: HashMap<_, _> = env.iter().copied().collect();
    Config::load(Some((Path::new("mezite.yaml"), text)), &|name| env.get(name).map(|v| (*v).to_owned()))
}

#[test]
fn the_least_configuration_is_the_documented_one() {
    let config = load("cluster_name: example\nssh: {enabled: true}\n", &[]).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/mezite"));
    assert_eq!(config.sqlite_path(), PathBuf::from("/var/lib/mezite/mezhub.db"));
    assert_eq!(config.auth.listen_addr.port(), 3025);
    assert_eq!((config.log.level, config.log.format), (Level::Info, Format::Json));
}

#[test]
fn variables_win_over_the_file_by_both_names() {
    let text = "cluster_name: a\nlog: {level: warn}\ndatabase: {path: /x}\nca_key_passphrase_file: /f\n";
    let config = load(
        text,
        &[
            ("MEZITE_LOG_LEVEL", "debug"),
            ("MEZITE_DB_PATH", "/y"),
            ("MEZITE_PROXY_SSH_LISTEN_ADDR", "127.0.0.1:0"),
            ("MEZITE_CA_KEY_PASSPHRASE", "p"),
        ],
    )
    .unwrap();
    assert_eq!(config.log.level, Level::Debug);
    assert_eq!(config.sqlite_path(), PathBuf::from("/y"));
    assert_eq!(config.proxy.ssh_listen_addr.port(), 0);
    assert_eq!(config.ca_key_passphrase_file, None);
    assert!(!format!("{config:?}").contains("\"p\""));
}

#[test]
fn what_is_wrong_is_named() {
    for (text, words) in [
        ("log: {}\n", "mezite.yaml: cluster_name: is missing; set it there or as MEZITE_CLUSTER_NAME"),
        (
            "cluster_name: a\ndiag: {listen_addr: x}\n",
            "mezite.yaml:2:8: diag.listen_addr: must be an IP address and a port",
        ),
        ("log: {}\ncluster_name: A\n", "mezite.yaml:2:1: cluster_name: must not hold 'A'; only"),
        (
            "cluster_name: a\nproxy:\n  public_adr: x\n",
            "mezite.yaml:3:3: proxy.public_adr: unknown field, did you mean public_addr",
        ),
        ("cluster_name: a\nlog: {level: loud}\n", "mezite.yaml:2:7: log.level: "),
        ("cluster_name: a\n  b: [\n", "mezite.yaml:2:"),
        ("- cluster_name\n", "mezite.yaml: expected keys and values"),
        ("cluster_name: a\ncluster_name: b\n", "mezite.yaml:2:1: "),
        (
            "cluster_name: a\ndatabase: {driver: postgres}\n",
            "mezite.yaml:2:12: database.driver: PostgreSQL is not part of this release",
        ),
        (
            "cluster_name: a\nca_key_passphrase: x\nca_key_passphrase_file: y\n",
            "mezite.yaml:2:1: ca_key_passphrase: is set, and ca_key_passphrase_file too",
        ),
    ] {
        let error = load(text, &[]).unwrap_err().to_string();
        assert!(error.contains(words), "{text:?}: {error}");
    }
    let error = load("cluster_name: a\n", &[("MEZITE_LOG_LEVEL", "loud")]).unwrap_err().to_string();
    assert!(error.starts_with("MEZITE_LOG_LEVEL: log.level: "), "{error}");
}

#[test]
fn invitations_name_the_address_that_users_dial() {
    let address = |proxy: &str| load(&format!("cluster_name: a\nproxy: {{{proxy}}}\n"), &[]).unwrap().public_addr();
    assert_eq!(address("public_addr: 'h.example:443'").unwrap(), "h.example:443");
    assert_eq!(address("public_addr: h.example").unwrap(), "h.example:3080");
    assert_eq!(address("public_addr: h.example, listen_addr: '0.0.0.0:8443'").unwrap(), "h.example:8443");
    assert_eq!(address("public_addr: '[::1]:0'").unwrap(), "[::1]:3080");
    assert_eq!(address("listen_addr: '0.0.0.0:8443'"), None);
}

#[test]
fn every_key_of_the_schema_has_a_variable() {
    fn leaves(schema: &Value, root: &Value, path: &str, found: &mut BTreeSet<String>) {
        let schema = match schema.get("$ref").or_else(|| schema.pointer("/anyOf/0/$ref")).and_then(Value::as_str) {
            Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
            None => schema,
        };
        match schema.get("properties").and_then(Value::as_object) {
            Some(properties) => {
                for (name, property) in properties {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    leaves(property, root, &path, found);
                }
            }
            None => drop(found.insert(path.to_owned())),
        }
    }
    let root = serde_json::to_value(schemars::schema_for!(Config)).unwrap();
    let mut found = BTreeSet::new();
    leaves(&root, &root, "", &mut found);
    let known: BTreeSet<_> = KEYS.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(found, known);
}

#[test]
fn reference_config_schema_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/config.schema.json");
    let text = serde_json::to_string_pretty(&schemars::schema_for!(Config)).unwrap() + "\n";
    if option_env!("MEZITE_UPDATE_DOCS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert!(std::fs::read_to_string(path).unwrap_or_default() == text, "run `make docs`");
}

#[test]
fn load_balancers_are_addresses_and_blocks() {
    let text = |list: &str| format!("cluster_name: x\nproxy: {{proxy_protocol_from: {list}}}\n");
    assert_eq!(load(&text("[10.0.0.0/8, 192.0.2.7]"), &[]).unwrap().proxy.proxy_protocol_from.len(), 2);
    let variable = [("MEZITE_PROXY_PROXY_PROTOCOL_FROM", "10.0.0.0/8, 2001:db8::7")];
    assert_eq!(load("cluster_name: x\n", &variable).unwrap().proxy.proxy_protocol_from.len(), 2);
    let error = load(&text("[10.0.0.1/8]"), &[]).unwrap_err().to_string();
    assert!(error.contains("write 10.0.0.0/8"), "{error}");
}
