//! Waiting until a change is in force: agents and proxies confirm what they decide by.

use mezite_client::Error;
use mezite_client::admin::refused;
use mezite_core::text::escape_control;
use mezite_proto::v1::{AwaitRevisionReply, AwaitRevisionRequest};

use super::Context;

/// Where a change is in force.
pub(super) struct Force {
    pub(super) confirmed: u32,
    /// Names of agents and proxies that did not confirm it in time.
    pub(super) unconfirmed: Vec<String>,
}

/// Waits for the change of this revision. It is written already: what cannot be found out is a warning and no failure.
pub(super) async fn wait(context: &mut Context, revision: u64) -> Option<Force> {
    let asked = async {
        let request = context.admin.request(AwaitRevisionRequest { revision })?;
        Ok::<_, Error>(context.admin.auth.await_revision(request).await.map_err(refused)?.into_inner())
    };
    match asked.await {
        Ok(AwaitRevisionReply { confirmed, unconfirmed }) => {
            let unconfirmed: Vec<String> = unconfirmed.iter().map(|name| escape_control(name).into_owned()).collect();
            if !unconfirmed.is_empty() {
                eprintln!(
                    "mezctl: warning: not confirmed in 5 s by {}; it is applied there when the hub is reached again, and \
                     without the hub nothing new is let in after 60 s",
                    unconfirmed.join(", ")
                );
            }
            Some(Force { confirmed, unconfirmed })
        }
        Err(error) => {
            eprintln!("mezctl: warning: it is written, and whether it is in force everywhere is not known: {error}");
            None
        }
    }
}
