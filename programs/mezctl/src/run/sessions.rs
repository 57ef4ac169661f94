//! `sessions`.

use mezite_client::admin::refused;
use mezite_client::{Result, cli};
use mezite_core::text::{Table, escape_control};
use mezite_proto::v1::{self, SessionInfo};
use serde_json::{Value, json};

use super::{Context, moment_ms};
use crate::args::Sessions;

const PAGE: u32 = 500;

pub(super) async fn run(mut context: Context, command: Sessions) -> Result<()> {
    match command {
        Sessions::Ls => {
            let sessions = active(&mut context).await?;
            let records: Vec<Value> = sessions.iter().map(record).collect();
            context.format.print(&records, |_| table(&sessions))
        }
        Sessions::Terminate { session } => {
            let request = context.admin.request(v1::TerminateSessionRequest { session_id: session.clone() })?;
            context.admin.auth.terminate_session(request).await.map_err(refused)?;
            cli::print(&format!("Session {} terminated\n", escape_control(&session)))
        }
    }
}

async fn active(context: &mut Context) -> Result<Vec<SessionInfo>> {
    let mut sessions = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListSessionsRequest { active_only: true, page_token, page_size: PAGE, ..Default::default() };
        let request = context.admin.request(request)?;
        let reply = context.admin.auth.list_sessions(request).await.map_err(refused)?.into_inner();
        sessions.extend(reply.sessions);
        if reply.next_page_token.is_empty() {
            return Ok(sessions);
        }
        page_token = reply.next_page_token;
    }
}

fn table(sessions: &[SessionInfo]) -> Table {
    let mut table = Table::new(&["SESSION ID", "USER", "NODE", "LOGIN", "KIND", "STARTED"]);
    for s in sessions {
        table.row([&s.session_id, &s.user, &s.node_name, &s.login, &s.kind, &moment_ms(s.started_unix_ms)]);
    }
    table
}

/// A session for `--format=json|yaml`.
pub(super) fn record(s: &SessionInfo) -> Value {
    json!({
        "id": s.session_id, "user": s.user, "node": s.node_name, "node_id": s.node_id, "login": s.login, "kind": s.kind,
        "command": s.command, "client_ip": s.client_ip, "started": moment_ms(s.started_unix_ms),
        "ended": moment_ms(s.ended_unix_ms), "ended_reason": s.ended_reason, "recording": s.recording_state,
        "waiting": s.waiting,
    })
}
