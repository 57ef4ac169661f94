//! A hub that answers what `msh` asks, and one node behind it.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use mezite_net::clock::now_unix;
use mezite_net::http::{Options, serve};
use mezite_net::listener::{Limits, Listener};
use mezite_net::ssh::{
    AuthMethod, AuthRequest, Channel, ChannelEvent, ChannelOpen, Credential, DisconnectReason, Event, HostKey,
    OpenFailure, ServerConfig, SessionRequest, accept,
};
use mezite_net::tls::{ALPN_WEB, ClientAuth, LiveIdentity, ServerTls, TlsIdentity};
use mezite_ssh::cert::{CertKind, CertificateBuilder, Policy, verify};
use mezite_ssh::key::{PrivateKey, PublicKey};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) const SESSION: &str = "a1b2c3d4-e5f6-7890-abcd-ef1234567890";
pub(crate) const PASSWORD: &str = "correct horse";
const TOKEN: &str = "token-of-alice";
const CAST: &str = "{\"version\":2,\"width\":80,\"height\":24}\n[0.01,\"o\",\"hello \"]\n[0.02,\"o\",\"world\\u001b]0;title\\u0007\\r\\n\"]\n";

/// What a test may change about the hub.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Start and end of user certificates, seconds from now.
    pub(crate) validity: (i64, i64),
    /// The name in the node's host certificate.
    pub(crate) node_name: &'static str,
    /// Whether the authority clients are given signs the hub's own TLS certificate.
    pub(crate) own_tls: bool,
    /// What the node says in place of letting anybody in.
    pub(crate) refusal: Option<&'static str>,
    /// Port of the web listener; 0 for any.
    pub(crate) port: u16,
}

impl Default for Plan {
    fn default() -> Self {
        Self { validity: (-60, 3600), node_name: "web", own_tls: true, refusal: None, port: 0 }
    }
}

pub(crate) struct Hub {
    pub(crate) web: String,
    pub(crate) ca_pem: String,
    pub(crate) state: Arc<Cluster>,
    _stop: tokio_util::sync::DropGuard,
}

pub(crate) struct Cluster {
    plan: Plan,
    ssh_addr: String,
    ca_pem: String,
    user_ca: PrivateKey,
    host_ca: PrivateKey,
    proxy: Arc<ServerConfig>,
    node: Arc<ServerConfig>,
    /// What `target@mezite` said, in order.
    pub(crate) named: Mutex<Vec<String>>,
}

impl Hub {
    pub(crate) async fn start(plan: Plan) -> Self {
        let ca = authority();
        let told = if plan.own_tls { ca.pem() } else { authority().pem() };
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        let identity = LiveIdentity::new(TlsIdentity::from_pem(&leaf.pem(), &key.serialize_pem()).unwrap()).unwrap();
        let tls = ServerTls { identity, clients: ClientAuth::None, alpn: ALPN_WEB, tls13_only: false }.build().unwrap();
        let ssh = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (user_ca, host_ca) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let state = Arc::new(Cluster {
            ssh_addr: ssh.local_addr().unwrap().to_string(),
            ca_pem: told,
            proxy: host(&host_ca, "127.0.0.1"),
            node: host(&host_ca, plan.node_name),
            user_ca,
            host_ca,
            named: Mutex::default(),
            plan: plan.clone(),
        });
        let listener = Listener::bind(("127.0.0.1", plan.port), Limits::default()).await.unwrap();
        let web = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let options = Options { tls: Some(tls), bulk: false, drain: std::time::Duration::ZERO };
        tokio::spawn(serve(listener, routes(Arc::clone(&state)), options, stop.clone()));
        tokio::spawn(front_door(ssh, Arc::clone(&state)));
        Self { web, ca_pem: ca.pem(), state, _stop: stop.drop_guard() }
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn certificate(key: PublicKey, kind: CertKind, principals: &[&str], validity: (i64, i64)) -> CertificateBuilder {
    let at = |offset: i64| now_unix().saturating_add_signed(offset);
    CertificateBuilder {
        public_key: key,
        serial: 1,
        kind,
        key_id: "test".to_owned(),
        principals: principals.iter().map(|name| (*name).to_owned()).collect(),
        valid_after: at(validity.0),
        valid_before: at(validity.1),
        critical_options: Vec::new(),
        extensions: vec![("permit-pty".to_owned(), Vec::new())],
    }
}

fn host(ca: &PrivateKey, name: &str) -> Arc<ServerConfig> {
    let key = PrivateKey::generate().unwrap();
    let certificate = certificate(key.public(), CertKind::Host, &[name], (-60, 3600)).sign(ca).unwrap();
    Arc::new(ServerConfig::new(vec![HostKey { key: Arc::new(key), certificate: Some(Arc::new(certificate)) }]))
}

fn routes(state: Arc<Cluster>) -> Router {
    Router::new()
        .route("/v1/webapi/ping", get(ping))
        .route("/v1/webapi/login", post(login))
        .route("/v1/webapi/certs", post(certs))
        .route("/v1/webapi/nodes", get(nodes))
        .route("/v1/webapi/sessions", get(sessions))
        .route("/v1/webapi/sessions/{id}/recording", get(recording))
        .route("/v1/webapi/logout", post(|| async { Json(json!({})) }))
        .route("/v1/webapi/password", post(password))
        .with_state(state)
}

type Answer = Result<Json<Value>, (StatusCode, Json<Value>)>;

fn refuse(status: u16, code: &str, message: &str) -> (StatusCode, Json<Value>) {
    let body = json!({ "error": { "code": code, "message": message } });
    (StatusCode::from_u16(status).unwrap(), Json(body))
}

fn only_alice(headers: &HeaderMap) -> Result<(), (StatusCode, Json<Value>)> {
    let shown = headers.get("authorization").and_then(|value| value.to_str().ok());
    if shown == Some(&format!("Bearer {TOKEN}")) { Ok(()) } else { Err(refuse(401, "not_logged_in", "log in first")) }
}

async fn ping(State(hub): State<Arc<Cluster>>) -> Json<Value> {
    Json(json!({ "cluster_name": "production", "version": "0.1.0", "ssh_addr": hub.ssh_addr, "tunnel_addr": "h:1" }))
}

async fn login(State(hub): State<Arc<Cluster>>, Json(body): Json<Value>) -> Answer {
    if body != json!({ "username": "alice", "password": PASSWORD }) {
        return Err(refuse(401, "not_logged_in", "wrong user name or password"));
    }
    Ok(Json(json!({
        "session_id": TOKEN, "username": "alice", "expires_unix": now_unix() + 43_200, "cluster_name": "production",
        "ssh_addr": hub.ssh_addr, "tunnel_addr": "h:1",
    })))
}

async fn certs(State(hub): State<Arc<Cluster>>, headers: HeaderMap, Json(body): Json<Value>) -> Answer {
    only_alice(&headers)?;
    let (key, _) = PublicKey::from_openssh(body["ssh_public_key"].as_str().unwrap()).unwrap();
    assert_eq!(body["ttl_seconds"], 0, "the cluster decides");
    let signed = certificate(key, CertKind::User, &["ubuntu", "alice"], hub.plan.validity).sign(&hub.user_ca).unwrap();
    Ok(Json(json!({
        "ssh_certificate": signed.to_openssh(""), "host_authorities": [hub.host_ca.public().to_openssh("")],
        "user_authorities": [hub.user_ca.public().to_openssh("")], "tls_ca_pem": hub.ca_pem, "cluster_name": "production",
        "valid_before_unix": signed.valid_before, "logins": ["ubuntu", "alice"],
    })))
}

async fn nodes(headers: HeaderMap) -> Answer {
    only_alice(&headers)?;
    Ok(Json(json!({ "nodes": [
        { "id": "1", "hostname": "web", "type": "node", "status": "online", "labels": { "env": "prod", "a": "b" }, "version": "0.1.0" },
        { "id": "2", "hostname": "db", "type": "node", "status": "offline", "labels": null, "version": null },
    ] })))
}

async fn sessions(headers: HeaderMap) -> Answer {
    only_alice(&headers)?;
    Ok(Json(json!({ "sessions": [{
        "id": SESSION, "user": "alice", "node": "web", "login": "ubuntu", "kind": "shell",
        "started": "2026-04-11T10:28:35Z", "ended": "2026-04-11T10:41:09Z",
    }] })))
}

async fn recording(headers: HeaderMap, Path(id): Path<String>) -> Result<String, (StatusCode, Json<Value>)> {
    only_alice(&headers)?;
    if id == SESSION { Ok(CAST.to_owned()) } else { Err(refuse(404, "not_found", "no such session")) }
}

async fn password(headers: HeaderMap, Json(body): Json<Value>) -> Answer {
    only_alice(&headers)?;
    assert_eq!(body, json!({ "old_password": PASSWORD, "new_password": "battery staple", "otp": "" }));
    Ok(Json(json!({})))
}

async fn front_door(listener: TcpListener, hub: Arc<Cluster>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(proxy(stream, Arc::clone(&hub)));
    }
}

/// Accepts certificates of the User CA, as the real proxy does.
fn decide(hub: &Cluster, request: AuthRequest) {
    let authorities = [hub.user_ca.public()];
    let policy =
        Policy { kind: CertKind::User, authorities: &authorities, now_unix: now_unix(), principal: None, source: None };
    match &request.method {
        AuthMethod::PublicKeyQuery(Credential::Certificate(shown))
        | AuthMethod::PublicKey(Credential::Certificate(shown))
            if verify(shown, &policy).is_ok() =>
        {
            request.accept();
        }
        _ => request.reject(&[]),
    }
}

async fn proxy(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, hub: Arc<Cluster>) {
    let (_connection, mut incoming) = accept(io, Arc::clone(&hub.proxy)).await;
    while let Some(event) = incoming.next().await {
        match event {
            Event::Auth(request) => decide(&hub, request),
            Event::Global(request) if request.name == "target@mezite" => {
                hub.named.lock().unwrap().push(String::from_utf8_lossy(&request.data).into_owned());
                request.reply(Some(Bytes::new()));
            }
            Event::Channel(request) => match &request.open {
                ChannelOpen::DirectTcpip { host, .. } if host == "web" => {
                    tokio::spawn(node(request.accept().into_stream(), Arc::clone(&hub)));
                }
                ChannelOpen::DirectTcpip { .. } => {
                    request
                        .reject(OpenFailure::AdministrativelyProhibited, "no node of this name\u{1b}[2J, or no access");
                }
                _ => {}
            },
            _ => {}
        }
    }
}

async fn node(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, hub: Arc<Cluster>) {
    let (connection, mut incoming) = accept(io, Arc::clone(&hub.node)).await;
    while let Some(event) = incoming.next().await {
        match event {
            Event::Auth(request) => match hub.plan.refusal {
                Some(reason) => connection.disconnect(DisconnectReason::NoMoreAuthMethods, reason),
                None => decide(&hub, request),
            },
            Event::Channel(request) if request.open == ChannelOpen::Session => {
                tokio::spawn(session(request.accept()));
            }
            _ => {}
        }
    }
}

/// Runs the command by `sh`; a shell says `ready` and then repeats what is typed.
async fn session(mut channel: Channel) {
    let mut pty = String::new();
    let command = loop {
        match channel.recv().await {
            Some(ChannelEvent::Request(asked)) => {
                let request = asked.request.clone();
                asked.reply(true);
                match request {
                    SessionRequest::Pty(asked) => pty = format!("{} {}x{}", asked.term, asked.cols, asked.rows),
                    SessionRequest::Exec(command) => break String::from_utf8(command).unwrap(),
                    SessionRequest::Shell => break format!("echo ready {pty}; cat"),
                    _ => {}
                }
            }
            Some(_) => {}
            None => return,
        }
    };
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", &command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout, mut stderr) =
        (child.stdin.take(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut reader, writer) = channel.split();
    let output = async {
        let mut buffer = vec![0; 65_536];
        while let Ok(count @ 1..) = stdout.read(&mut buffer).await {
            writer.data(Bytes::copy_from_slice(&buffer[..count])).await.unwrap();
        }
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).await.unwrap();
        writer.extended(1, text.into()).await.unwrap();
        let status = child.wait().await.unwrap();
        match status.code() {
            Some(code) => writer.notify("exit-status", SessionRequest::ExitStatus(code.try_into().unwrap()).payload()),
            None => {
                let signal =
                    SessionRequest::ExitSignal { signal: "TERM".into(), core_dumped: false, message: String::new() };
                writer.notify(signal.name(), signal.payload());
            }
        }
        writer.eof();
        writer.close();
    };
    let input = async {
        while let Some(event) = reader.recv().await {
            match (event, &mut stdin) {
                (ChannelEvent::Data(data), Some(open)) => {
                    let _ = open.write_all(&data).await;
                }
                (ChannelEvent::Eof, _) => stdin = None,
                _ => {}
            }
        }
    };
    tokio::pin!(output, input);
    tokio::select! {
        () = &mut output => {}
        () = &mut input => {}
    }
}
