//! `ls` and `sessions ls`.

use std::fmt::Write as _;

use mezite_client::Result;
use mezite_client::api::{Node, Nodes, Session, Sessions};
use mezite_core::labels;
use mezite_core::text::Table;

use super::Context;
use crate::args;

pub(super) async fn nodes(context: &Context, args: args::Ls) -> Result<()> {
    let profile = context.profile()?;
    let reply: Nodes = context.session(&profile)?.web.get("/v1/webapi/nodes").await?;
    let mut nodes = reply.nodes;
    nodes.retain(|node| {
        let labels = node.labels.clone().unwrap_or_default();
        args.filter.iter().all(|filter| labels::matches_filter(&labels, &filter.0))
    });
    nodes.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    args.output.format.print(&nodes, |nodes| node_table(nodes))
}

fn node_table(nodes: &[Node]) -> Table {
    let mut table = Table::new(&["HOSTNAME", "ROLE", "STATUS", "LABELS", "VERSION"]);
    for node in nodes {
        let labels = node.labels.as_ref().map(labels::print).unwrap_or_default();
        let (kind, version) = (node.kind.as_deref().unwrap_or_default(), node.version.as_deref().unwrap_or_default());
        table.row([node.hostname.as_str(), kind, &node.status, &labels, version]);
    }
    table
}

pub(super) async fn sessions(context: &Context, args: args::ListSessions) -> Result<()> {
    let args::ListSessions { user, active, limit, offset, output } = args;
    let profile = context.profile()?;
    let mut path = format!("/v1/webapi/sessions?limit={limit}&offset={offset}");
    if let Some(user) = user {
        // User names need no encoding; anything else is no user name.
        mezite_core::name::user(&user)?;
        let _ = write!(path, "&user={user}");
    }
    if active {
        path.push_str("&active=true");
    }
    let reply: Sessions = context.session(&profile)?.web.get(&path).await?;
    output.format.print(&reply.sessions, |sessions| session_table(sessions))
}

fn session_table(sessions: &[Session]) -> Table {
    let mut table = Table::new(&["SESSION ID", "USER", "NODE", "LOGIN", "STARTED", "ENDED"]);
    for s in sessions {
        table.row([&s.id, &s.user, &s.node, &s.login, &s.started, s.ended.as_ref().unwrap_or(&String::new())]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_tables() {
        let node = r#"{"id":"x","hostname":"web-server-01","type":"node","status":"online","version":"0.1.0",
            "labels":{"team":"platform","os":"ubuntu","env":"production"},"later":1}"#;
        let bare =
            r#"{"id":null,"hostname":"evil\u001b[2J","type":"node","status":"offline","labels":null,"version":null}"#;
        let nodes: Vec<Node> = serde_json::from_str(&format!("[{node},{bare}]")).unwrap();
        let wanted = [
            "HOSTNAME       ROLE  STATUS   LABELS                                  VERSION",
            "web-server-01  node  online   env=production,os=ubuntu,team=platform  0.1.0",
            "evil\\u{1b}[2J  node  offline  -                                       -",
        ];
        assert_eq!(node_table(&nodes).to_string().lines().collect::<Vec<_>>(), wanted);
        let session = r#"{"id":"a1b2c3d4-e5f6-7890-abcd-ef1234567890","user":"alice","node":"web-server-01","login":"ubuntu",
            "started":"2026-04-11T10:28:35Z","ended":null,"kind":"shell"}"#;
        let sessions: Vec<Session> = serde_json::from_str(&format!("[{session}]")).unwrap();
        let shown = session_table(&sessions).to_string();
        let header = shown.lines().next().unwrap().split("  ").map(str::trim).filter(|title| !title.is_empty());
        assert_eq!(header.collect::<Vec<_>>(), ["SESSION ID", "USER", "NODE", "LOGIN", "STARTED", "ENDED"]);
        assert!(shown.ends_with("alice  web-server-01  ubuntu  2026-04-11T10:28:35Z  -\n"), "{shown}");
    }
}
