//! `config`: settings of the whole cluster, kept by the Auth service.

use mezite_client::{Error, Result, cli};
use mezite_core::Fault;
use mezite_core::kind::config::{SETTINGS, Setting};
use mezite_core::kind::{Config as ConfigKind, ConfigSpec, Kind};
use mezite_core::text::{Table, escape_control};
use serde_json::{Value, json};

use super::{Context, encode, spec};
use crate::args::Config;

pub(super) async fn run(mut context: Context, command: Config) -> Result<()> {
    match command {
        Config::Get { key } => {
            let value = value(&mut context, Setting::named(&key)?).await?;
            let record = json!({ "key": key, "value": value });
            context.format.print_text(&record, |_| format!("{}\n", escape_control(&value)))
        }
        Config::Set { key, value } => {
            let spec = ConfigSpec { value };
            ConfigKind::validate(&key, &spec)?;
            context.admin.put(ConfigKind::KIND, &key, encode(&spec)?, None).await?;
            cli::print(&format!("{key} set to {}\n", spec.value))
        }
        Config::Ls => {
            let mut settings = Vec::new();
            for setting in &SETTINGS {
                settings.push((setting, value(&mut context, setting).await?));
            }
            let row = |(setting, value): &(&Setting, String)| json!({ "key": setting.key, "value": value, "default": setting.default, "meaning": setting.meaning });
            let records: Vec<Value> = settings.iter().map(row).collect();
            context.format.print(&records, |_| {
                let mut table = Table::new(&["KEY", "VALUE", "DEFAULT", "MEANING"]);
                for (setting, value) in &settings {
                    table.row([setting.key, value.as_str(), setting.default, setting.meaning]);
                }
                table
            })
        }
    }
}

/// The stored value, else the default.
async fn value(context: &mut Context, setting: &Setting) -> Result<String> {
    match context.admin.get(ConfigKind::KIND, setting.key).await {
        Ok(object) => Ok(spec::<ConfigKind>(&object).map_err(Error::Local)?.value),
        Err(Error::Fault(Fault::NotFound(_))) => Ok(setting.default.to_owned()),
        Err(error) => Err(error),
    }
}
