//! `Auth.UploadRecording`, and nothing else of Auth.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mezite_proto::v1::auth_client::AuthClient;
use mezite_proto::v1::recording_part::Part;
use mezite_proto::v1::{RecordingAck, RecordingPart};
use mezite_record::{Chain, Chunk, Seal};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// A recording at Auth.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) metadata: Vec<u8>,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) seal: Option<Seal>,
    chain: Chain,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) held: HashMap<String, Held>,
    /// Calls that were refused.
    pub(crate) refused: u32,
    /// Refuse calls.
    pub(crate) away: bool,
    /// A session of another node.
    pub(crate) foreign: Option<String>,
    /// Break a call once it has brought this many chunks.
    pub(crate) break_after: Option<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Auth {
    state: Arc<watch::Sender<State>>,
    channel: Option<Channel>,
}

impl Auth {
    pub(crate) fn start() -> Self {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let state = Arc::new(watch::Sender::new(State::default()));
        let service = Self { state: Arc::clone(&state), channel: None };
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { state, channel: Some(channel) }
    }

    pub(crate) fn client(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel.clone().unwrap())
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    pub(crate) async fn wait(&self, condition: impl FnMut(&State) -> bool) {
        let mut state = self.state.subscribe();
        super::in_time(state.wait_for(condition)).await.unwrap();
    }

    pub(crate) fn held(&self, id: &str) -> Held {
        self.state.borrow().held.get(id).unwrap().clone()
    }

    /// Takes one part of the call for the session named by its first part.
    fn take(&self, session: &mut String, part: Part) -> Result<RecordingAck, Status> {
        let mut answer = Err(Status::internal("no answer"));
        self.set(|state| answer = state.take(session, part));
        answer
    }

    async fn receive(
        self,
        mut parts: Streaming<RecordingPart>,
        acks: mpsc::Sender<Result<RecordingAck, Status>>,
    ) -> Result<(), Status> {
        let (mut session, mut brought) = (String::new(), 0);
        while let Some(part) = parts.message().await? {
            let part = part.part.ok_or_else(|| Status::invalid_argument("empty part"))?;
            brought += usize::from(matches!(part, Part::Chunk(_)));
            let ack = self.take(&mut session, part)?;
            if self.state.borrow().break_after == Some(brought) {
                return Err(Status::unavailable("broken on purpose"));
            }
            if acks.send(Ok(ack)).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

impl State {
    fn take(&mut self, session: &mut String, part: Part) -> Result<RecordingAck, Status> {
        if let Part::Open(open) = part {
            if self.away {
                self.refused += 1;
                return Err(Status::unavailable("away on purpose"));
            }
            if self.foreign.as_ref() == Some(&open.session_id) {
                return Err(Status::not_found("no such session"));
            }
            session.clone_from(&open.session_id);
            let chain = Chain::new(session);
            let fresh = Held { metadata: open.metadata, chunks: Vec::new(), seal: None, chain };
            let held = self.held.entry(open.session_id).or_insert(fresh);
            return Ok(RecordingAck { chunks: held.chain.next(), sealed: false });
        }
        let held = self.held.get_mut(session).ok_or_else(|| Status::failed_precondition("not open"))?;
        let sealed = matches!(part, Part::Seal(_));
        match part {
            Part::Chunk(chunk) => {
                let chunk = Chunk::try_from(chunk).map_err(|error| Status::data_loss(error.to_string()))?;
                held.chain.check(&chunk).map_err(|error| Status::data_loss(error.to_string()))?;
                held.chunks.push(chunk);
            }
            Part::Seal(seal) => {
                let seal = Seal::try_from(seal).map_err(|error| Status::data_loss(error.to_string()))?;
                held.chain.finish(&seal).map_err(|error| Status::data_loss(error.to_string()))?;
                held.seal = Some(seal);
            }
            Part::Open(_) => {}
        }
        Ok(RecordingAck { chunks: held.chain.next(), sealed })
    }
}

impl NamedService for Auth {
    const NAME: &'static str = "mezite.v1.Auth";
}

impl Service<http::Request<Body>> for Auth {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert_eq!(request.uri().path(), "/mezite.v1.Auth/UploadRecording");
        let upload = UploadRecording(self.clone());
        let mut grpc = Grpc::new(ProstCodec::<RecordingAck, RecordingPart>::default());
        async move { Ok(grpc.streaming(upload, request).await) }.boxed()
    }
}

struct UploadRecording(Auth);

impl Service<Request<Streaming<RecordingPart>>> for UploadRecording {
    type Response = Response<ReceiverStream<Result<RecordingAck, Status>>>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<RecordingPart>>) -> Self::Future {
        let (acks, receiver) = mpsc::channel(4);
        let auth = self.0.clone();
        tokio::spawn(async move {
            if let Err(status) = auth.receive(request.into_inner(), acks.clone()).await {
                let _ = acks.send(Err(status)).await;
            }
        });
        async move { Ok(Response::new(ReceiverStream::new(receiver))) }.boxed()
    }
}
