//! `nodes`.

use mezite_client::{Error, Result, cli};
use mezite_core::kind::{Kind, Node};
use mezite_core::labels;
use mezite_core::text::{Table, escape_control};
use mezite_proto::v1::Object;
use serde_json::Value;

use super::{Context, encode, moment, record, records, spec, status};
use crate::args::Nodes;

pub(super) async fn run(mut context: Context, command: Nodes) -> Result<()> {
    match command {
        Nodes::Ls { wide } => {
            let nodes = context.admin.list(Node::KIND).await?;
            context.format.print(&records(&nodes), |_| table(&nodes, wide))
        }
        Nodes::Get { node } => {
            let node = context.admin.get(Node::KIND, &node).await?;
            context.format.or_yaml().print_text(&record(&node), |_| String::new())
        }
        Nodes::Update { node, labels } => {
            let node = context.admin.get(Node::KIND, &node).await?;
            let mut changed = spec::<Node>(&node).map_err(Error::Local)?;
            changed.labels = labels::parse(&labels)?;
            let stored = context.admin.put(Node::KIND, &node.name, encode(&changed)?, Some(node.revision)).await?;
            let shown = match labels::print(&changed.labels) {
                none if none.is_empty() => "no labels".to_owned(),
                labels => format!("labels: {labels}"),
            };
            context.format.print_text(&record(&stored), |_| format!("Node {} updated ({shown})\n", node.name))
        }
        Nodes::Rm { node } => {
            let node = context.admin.get(Node::KIND, &node).await?;
            context.admin.delete(Node::KIND, &node.name).await?;
            cli::print(&format!("Node {} removed\n", escape_control(&node.name)))
        }
    }
}

fn table(nodes: &[Object], wide: bool) -> Table {
    let mut header = vec!["HOSTNAME", "TYPE", "STATUS", "LABELS", "VERSION"];
    if wide {
        header.extend(["ID", "LAST HEARTBEAT", "HOST_CERT_SIGNER_FINGERPRINT"]);
    }
    let mut table = Table::new(&header);
    for node in nodes {
        let status = status(node);
        let online = status.get("online").and_then(Value::as_bool).unwrap_or_default();
        let online = if online { "online" } else { "offline" }.to_owned();
        let mut row = match spec::<Node>(node) {
            Ok(spec) => {
                let wide = wide
                    .then(|| [spec.node_id.clone(), heartbeat(&status), text(&status, "host_cert_signer_fingerprint")]);
                let row = [
                    node.name.clone(),
                    spec.kind.as_str().to_owned(),
                    online,
                    labels::print(&spec.labels),
                    spec.version,
                ];
                row.into_iter().chain(wide.into_iter().flatten()).collect()
            }
            Err(error) => vec![node.name.clone(), "-".to_owned(), online, format!("unreadable: {error}")],
        };
        row.truncate(header.len());
        table.row(row);
    }
    table
}

/// Unix seconds or text, as the hub keeps it.
fn heartbeat(status: &Value) -> String {
    match status.get("last_heartbeat") {
        Some(Value::Number(unix)) => unix.as_i64().filter(|unix| *unix > 0).map(moment).unwrap_or_default(),
        _ => text(status, "last_heartbeat"),
    }
}

fn text(status: &Value, field: &str) -> String {
    status.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}
