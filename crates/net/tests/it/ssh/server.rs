//! A small server on the driver: certificates of one authority, exec and shell by `sh`, TCP and Unix forwarding.

use std::{net::SocketAddr, process::Stdio, sync::Arc};

use bytes::Bytes;
use mezite_net::ssh::{
    AuthMethod, AuthRequest, Channel, ChannelEvent, ChannelOpen, ChannelReader, ChannelRequest, ChannelWriter,
    Connection, Credential, Event, GlobalRequest, Incoming, Method, OpenFailure, Prompt, ServerConfig, SessionRequest,
    accept,
};
use mezite_ssh::{CertKind, Policy, PublicKey, cert};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixStream},
    process::{ChildStdin, Command},
};

use super::cluster::now_unix;

/// What the server asks for after the certificate.
pub(crate) const CODE: &str = "123456";

#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) user_ca: PublicKey,
    /// Ask for [`CODE`] as a second method.
    pub(crate) second_factor: bool,
}

/// Listens on a free port of the loopback.
pub(crate) async fn listen(config: ServerConfig, rules: Rules) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = Arc::new(config);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let (connection, incoming) = accept(stream, Arc::clone(&config)).await;
            tokio::spawn(serve(connection, incoming, rules.clone()));
        }
    });
    address
}

pub(crate) async fn serve(connection: Connection, mut incoming: Incoming, rules: Rules) {
    while let Some(event) = incoming.next().await {
        match event {
            Event::Auth(request) => authenticate(request, &rules),
            Event::Authenticated { .. } => {}
            Event::Channel(request) => open(request).await,
            Event::Global(request) => global(&connection, request).await,
        }
    }
}

fn authenticate(request: AuthRequest, rules: &Rules) {
    let trusted = |credential: &Credential| {
        let Credential::Certificate(certificate) = credential else { return false };
        let authorities = [rules.user_ca.clone()];
        let policy = Policy {
            kind: CertKind::User,
            authorities: &authorities,
            now_unix: now_unix(),
            principal: Some(&request.user),
            source: None,
        };
        cert::verify(certificate, &policy).is_ok()
    };
    match &request.method {
        AuthMethod::PublicKeyQuery(credential) if trusted(credential) => request.accept(),
        AuthMethod::PublicKey(credential) if trusted(credential) && rules.second_factor => {
            request.accept_partial(&[Method::KeyboardInteractive]);
        }
        AuthMethod::PublicKey(credential) if trusted(credential) => request.accept(),
        AuthMethod::KeyboardInteractive if request.proven.iter().any(trusted) => {
            request.challenge("", "", vec![Prompt { text: "Code: ".to_owned(), echo: false }]);
        }
        AuthMethod::KeyboardResponses(answers) if request.proven.iter().any(trusted) && **answers[0] == *CODE => {
            request.accept();
        }
        _ => request.reject(&[Method::PublicKey]),
    }
}

async fn open(request: ChannelRequest) {
    match request.open.clone() {
        ChannelOpen::Session => drop(tokio::spawn(session(request.accept()))),
        ChannelOpen::DirectTcpip { host, port, .. } => match TcpStream::connect((host, port)).await {
            Ok(mut stream) => drop(tokio::spawn(async move {
                let mut channel = request.accept().into_stream();
                let _ = copy_bidirectional(&mut channel, &mut stream).await;
            })),
            Err(_) => request.reject(OpenFailure::ConnectFailed, "connection refused"),
        },
        ChannelOpen::DirectStreamlocal { path } => match UnixStream::connect(path).await {
            Ok(mut stream) => drop(tokio::spawn(async move {
                let mut channel = request.accept().into_stream();
                let _ = copy_bidirectional(&mut channel, &mut stream).await;
            })),
            Err(_) => request.reject(OpenFailure::ConnectFailed, "connection refused"),
        },
        _ => request.reject(OpenFailure::AdministrativelyProhibited, "not here"),
    }
}

/// `tcpip-forward` on the loopback.
async fn global(connection: &Connection, request: GlobalRequest) {
    if request.name != "tcpip-forward" {
        return request.reply(None);
    }
    let mut reader = mezite_ssh::wire::Reader::new(&request.data);
    let host = reader.utf8().unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    request.reply(Some(Bytes::copy_from_slice(&u32::from(port).to_be_bytes())));
    let connection = connection.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            let (origin_host, origin_port) = (peer.ip().to_string(), peer.port());
            let open = ChannelOpen::ForwardedTcpip { host: host.clone(), port, origin_host, origin_port };
            let Ok(channel) = connection.open(open).await else { return };
            let mut channel = channel.into_stream();
            let _ = copy_bidirectional(&mut channel, &mut stream).await;
        }
    });
}

async fn session(mut channel: Channel) {
    while let Some(event) = channel.recv().await {
        let ChannelEvent::Request(request) = event else { continue };
        match request.request.clone() {
            SessionRequest::Exec(command) => {
                request.reply(true);
                return run(String::from_utf8(command).unwrap(), channel).await;
            }
            SessionRequest::Pty(_) | SessionRequest::Env { .. } | SessionRequest::AgentForward => request.reply(true),
            _ => request.reply(false),
        }
    }
}

async fn run(command: String, channel: Channel) {
    let mut child = Command::new("/bin/sh")
        .args(["-c", &command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (reader, writer) = channel.split();
    let input = tokio::spawn(feed(reader, child.stdin.take().unwrap()));
    tokio::join!(
        drain(child.stdout.take().unwrap(), &writer, false),
        drain(child.stderr.take().unwrap(), &writer, true),
    );
    let status = child.wait().await.unwrap();
    let exit = SessionRequest::ExitStatus(status.code().unwrap_or(255) as u32);
    writer.eof();
    writer.notify(exit.name(), exit.payload());
    writer.close();
    input.abort();
}

async fn feed(mut reader: ChannelReader, stdin: ChildStdin) {
    let mut stdin = Some(stdin);
    while let Some(event) = reader.recv().await {
        match event {
            ChannelEvent::Data(data) => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&data).await.is_err()
                {
                    stdin = None;
                }
            }
            ChannelEvent::Eof => stdin = None,
            _ => {}
        }
    }
}

async fn drain(mut from: impl AsyncRead + Unpin, writer: &ChannelWriter, stderr: bool) {
    loop {
        let mut buffer = bytes::BytesMut::with_capacity(32 << 10);
        if !matches!(from.read_buf(&mut buffer).await, Ok(1..)) {
            return;
        }
        let data = buffer.freeze();
        let sent = if stderr { writer.extended(1, data).await } else { writer.data(data).await };
        if sent.is_err() {
            return;
        }
    }
}
