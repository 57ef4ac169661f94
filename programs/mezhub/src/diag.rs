//! `/livez`, `/readyz` and `/metrics`, in plain HTTP on a private address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusBuilder;
use mezite_net::http::{self, Options};
use mezite_net::listener::{Limits, Listener};
use tokio_util::sync::CancellationToken;

use crate::Failure;

/// Serves diagnostics until `stop`; comes back with the address bound.
pub(crate) async fn serve(
    addr: SocketAddr,
    auth: Arc<mezite_auth::Running>,
    stop: CancellationToken,
) -> Result<SocketAddr, Failure> {
    let failed = |e: std::io::Error| format!("diag.listen_addr {addr}: {e}");
    let listener = Listener::bind(addr, Limits::default()).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|e| format!("metrics: {e}"))?;
    metrics::gauge!("mezite_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let ready = {
        let stop = stop.clone();
        move || {
            let (auth, stop) = (Arc::clone(&auth), stop.clone());
            async move {
                if stop.is_cancelled() {
                    return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
                }
                match auth.ready().await {
                    Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
                    Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
                }
            }
        }
    };
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(move || async move { handle.render() }));
    let options = Options { tls: None, bulk: false, drain: Duration::from_secs(1) };
    tokio::spawn(http::serve(listener, app, options, stop));
    Ok(bound)
}
