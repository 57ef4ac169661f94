//! `ca`.

use mezite_client::admin::refused;
use mezite_client::{Result, cli};
use mezite_core::text::Table;
use mezite_proto::v1::{self, CaInfo};
use serde_json::{Value, json};

use super::{Context, moment};
use crate::args::{Authority, Ca};

pub(super) async fn run(mut context: Context, command: Ca) -> Result<()> {
    match command {
        Ca::Status => {
            let request = context.admin.request(v1::CaStatusRequest {})?;
            let authorities = context.admin.auth.ca_status(request).await.map_err(refused)?.into_inner().authorities;
            let records: Vec<Value> = authorities.iter().map(record).collect();
            context.format.print(&records, |_| table(&authorities))
        }
        Ca::Export { kind } => {
            let kind = match kind {
                Authority::User => "user",
                Authority::Host => "host",
                Authority::Spiffe => "spiffe",
                Authority::Audit => "audit",
            };
            let request = context.admin.request(v1::CaExportRequest { r#type: kind.to_owned() })?;
            let text = context.admin.auth.ca_export(request).await.map_err(refused)?.into_inner().text;
            cli::print(&format!("{}\n", text.trim_end()))
        }
    }
}

fn table(authorities: &[CaInfo]) -> Table {
    let mut table = Table::new(&["TYPE", "PHASE", "ACTIVE KEY", "STANDBY KEY", "CREATED"]);
    for ca in authorities {
        let created = moment(ca.created_unix);
        table.row([&ca.r#type, &ca.phase, &ca.active_fingerprint, &ca.standby_fingerprint, &created]);
    }
    table
}

fn record(ca: &CaInfo) -> Value {
    json!({
        "type": ca.r#type, "phase": ca.phase, "active_fingerprint": ca.active_fingerprint,
        "standby_fingerprint": ca.standby_fingerprint, "x509_fingerprint": ca.x509_fingerprint,
        "created": moment(ca.created_unix),
    })
}
