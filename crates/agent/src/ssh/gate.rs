//! The time before a session that others must be present in: it shows for whom it waits, and nothing of the user runs.

use std::time::Duration;

use mezite_net::ssh::{ChannelEvent, ChannelReader, ChannelWriter, SessionRequest};
use tokio::time::timeout;

use crate::ssh::command::Prepared;
use crate::ssh::room::{Room, notice};
use crate::ssh::verdict::Verdict;

/// What Ctrl-C sends on a terminal in raw mode.
pub(super) const INTERRUPT: u8 = 3;
/// How long one notice may take to be sent.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the session does not begin.
pub(super) enum Left {
    /// Its user left.
    User,
    /// It must not.
    Verdict(Verdict),
}

/// Waits until everybody who must be present is. What is typed meanwhile on a terminal is lost; what is sent to a command without
/// one stays with the client.
///
/// # Errors
/// [`Left`].
pub(super) async fn wait(
    room: &Room,
    reader: &mut ChannelReader,
    writer: &ChannelWriter,
    prepared: &mut Prepared,
    verdict: impl Future<Output = Verdict>,
) -> Result<(), Left> {
    let notices = notices(room, writer);
    let (running, over) = (room.running(), room.over());
    tokio::pin!(notices, running, over, verdict);
    loop {
        tokio::select! {
            biased;
            verdict = &mut over => return Err(Left::Verdict(verdict)),
            verdict = &mut verdict => return Err(Left::Verdict(verdict)),
            () = writer.closed() => return Err(Left::User),
            () = &mut running => return Ok(()),
            () = &mut notices => {}
            event = reader.recv(), if prepared.pty.is_some() => {
                let Some(event) = event else { return Err(Left::User) };
                heard(event, room, prepared)?;
            }
        }
    }
}

/// Tells the owner what happens in the session; does not come back.
pub(super) async fn notices(room: &Room, writer: &ChannelWriter) {
    loop {
        let text = room.notice().await;
        let _ = timeout(NOTICE_TIMEOUT, writer.extended(1, notice(&text))).await;
    }
}

fn heard(event: ChannelEvent, room: &Room, prepared: &mut Prepared) -> Result<(), Left> {
    match event {
        ChannelEvent::Data(typed) if typed.contains(&INTERRUPT) => return Err(Left::User),
        ChannelEvent::Request(request) => {
            let resized = prepared.resize(&request.request);
            if let (true, SessionRequest::WindowChange { cols, rows, .. }) = (resized, &request.request) {
                let cells = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
                room.resize(cells(*cols), cells(*rows));
            }
            request.reply(resized);
        }
        ChannelEvent::Data(_) | ChannelEvent::Extended(..) | ChannelEvent::Eof => {}
    }
    Ok(())
}
