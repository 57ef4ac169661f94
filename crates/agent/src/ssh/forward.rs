//! Local port forwarding (`ssh -L`, `-W`, `-D`): a TCP connection from the node.

use std::time::Duration;

use mezite_net::ssh::{ChannelRequest, OpenFailure};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Connects to the target and copies both ways. The caller has checked the permit.
pub(super) async fn tcp(request: ChannelRequest, host: &str, port: u16) {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await;
    match connected {
        Ok(Ok(mut target)) => {
            let _ = target.set_nodelay(true);
            let mut channel = request.accept().into_stream();
            let _ = copy_bidirectional(&mut channel, &mut target).await;
        }
        Ok(Err(error)) => request.reject(OpenFailure::ConnectFailed, &error.to_string()),
        Err(_) => request.reject(OpenFailure::ConnectFailed, "the target did not answer in time"),
    }
}
