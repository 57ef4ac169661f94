//! The gRPC service: one file per group of calls. Handlers take the hub, the caller and the message, and answer with a
//! message or a [`Fault`].

mod access;
mod audit;
mod audit_export;
mod authorities;
pub(crate) mod gate;
mod hosts;
mod login;
mod machines;
mod mfa;
mod objects;
mod policy;
mod recordings;
mod sessions;
mod tokens;
mod users;
mod watch;

pub(crate) use sessions::finish as finish_session;

use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use futures_util::Stream;
use mezite_core::Fault;
use mezite_core::rbac::{Resource, Verb, may};
use mezite_proto::v1::auth_server::{Auth, AuthServer};
use mezite_proto::v1::*;
use mezite_store::Page;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::caller::Caller;
use crate::hub::Hub;

/// Largest message taken, in bytes: a recording chunk of 1 MiB and what is around it.
const MAX_MESSAGE: usize = 2 * 1024 * 1024;

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service with its gate, ready to be served.
pub(crate) fn router(hub: Arc<Hub>) -> Router {
    let service = AuthServer::new(Service(Arc::clone(&hub))).max_decoding_message_size(MAX_MESSAGE);
    mezite_net::rpc::router(Routes::new(service)).layer(from_fn_with_state(hub, gate::pass))
}

struct Service(Arc<Hub>);

/// Generates the service: each call takes the caller out of the request, runs its handler, and turns a fault into a status.
macro_rules! service {
    ($(
        $rpc:ident($request:ty) -> $reply:ty { $handler:path }
    )*; $($rest:tt)*) => {
        #[tonic::async_trait]
        impl Auth for Service {
            $(
                async fn $rpc(&self, request: Request<$request>) -> Result<Response<$reply>, Status> {
                    let caller = caller(&request)?;
                    let answer = $handler(&self.0, &caller, request.into_inner()).await;
                    answer.map(Response::new).map_err(|fault| self.status(stringify!($rpc), &fault))
                }
            )*
            $($rest)*
        }
    };
}

service! {
    ping(PingRequest) -> PingReply { login::ping }
    authenticate_local(AuthenticateLocalRequest) -> AuthenticateLocalReply { login::authenticate_local }
    redeem_invite(RedeemInviteRequest) -> RedeemInviteReply { login::redeem_invite }
    logout(LogoutRequest) -> LogoutReply { login::logout }
    who_am_i(WhoAmIRequest) -> WhoAmIReply { login::who_am_i }
    issue_user_certs(IssueUserCertsRequest) -> IssueUserCertsReply { login::issue_user_certs }
    change_password(ChangePasswordRequest) -> ChangePasswordReply { login::change_password }
    begin_mfa(BeginMfaRequest) -> BeginMfaReply { mfa::begin }
    finish_mfa(FinishMfaRequest) -> FinishMfaReply { mfa::finish }
    list_mfa(ListMfaRequest) -> ListMfaReply { mfa::list }
    remove_mfa(RemoveMfaRequest) -> RemoveMfaReply { mfa::remove }
    prove_session_mfa(ProveSessionMfaRequest) -> ProveSessionMfaReply { mfa::prove_session }
    reset_mfa(ResetMfaRequest) -> ResetMfaReply { mfa::reset }
    generate_host_certs(GenerateHostCertsRequest) -> GenerateHostCertsReply { hosts::generate_host_certs }
    register_agent(RegisterAgentRequest) -> RegisterAgentReply { machines::register_agent }
    agent_heartbeat(AgentHeartbeatRequest) -> AgentHeartbeatReply { machines::agent_heartbeat }
    confirm_revision(ConfirmRevisionRequest) -> ConfirmRevisionReply { watch::confirm }
    await_revision(AwaitRevisionRequest) -> AwaitRevisionReply { watch::await_revision }
    report_presence(ReportPresenceRequest) -> ReportPresenceReply { machines::report_presence }
    emit_audit_events(EmitAuditEventsRequest) -> EmitAuditEventsReply { machines::emit_audit_events }
    start_session(StartSessionRequest) -> StartSessionReply { sessions::start }
    end_session(EndSessionRequest) -> EndSessionReply { sessions::end }
    list_sessions(ListSessionsRequest) -> ListSessionsReply { sessions::list }
    terminate_session(TerminateSessionRequest) -> TerminateSessionReply { sessions::terminate }
    get_object(GetObjectRequest) -> Object { objects::get }
    list_objects(ListObjectsRequest) -> ListObjectsReply { objects::list }
    put_object(PutObjectRequest) -> Object { objects::put }
    delete_object(DeleteObjectRequest) -> DeleteObjectReply { objects::delete }
    create_user(CreateUserRequest) -> CreateUserReply { users::create }
    reset_password(ResetPasswordRequest) -> ResetPasswordReply { users::reset_password }
    create_token(CreateTokenRequest) -> CreateTokenReply { tokens::create }
    list_recordings(ListRecordingsRequest) -> ListRecordingsReply { recordings::list }
    verify_recording(VerifyRecordingRequest) -> VerifyRecordingReply { recordings::verify }
    list_audit(ListAuditRequest) -> ListAuditReply { audit::list }
    verify_audit(VerifyAuditRequest) -> VerifyAuditReply { audit::verify }
    explain_access(ExplainAccessRequest) -> ExplainAccessReply { access::explain }
    who_can(WhoCanRequest) -> WhoCanReply { access::who_can }
    preview_role(PreviewRoleRequest) -> PreviewRoleReply { access::preview }
    ca_status(CaStatusRequest) -> CaStatusReply { authorities::status }
    ca_export(CaExportRequest) -> CaExportReply { authorities::export };

    type WatchStream = Answers<WatchEvent>;
    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller(&request)?;
        let answer = watch::watch(&self.0, &caller, request.into_inner()).await;
        answer.map(Response::new).map_err(|fault| self.status("watch", &fault))
    }

    type DownloadRecordingStream = Answers<Chunk>;
    async fn download_recording(
        &self,
        request: Request<DownloadRecordingRequest>,
    ) -> Result<Response<Self::DownloadRecordingStream>, Status> {
        let caller = caller(&request)?;
        let answer = recordings::download(&self.0, &caller, request.into_inner()).await;
        answer.map(Response::new).map_err(|fault| self.status("download_recording", &fault))
    }

    type ExportAuditStream = Answers<Chunk>;
    async fn export_audit(
        &self,
        request: Request<ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        let caller = caller(&request)?;
        let answer = audit_export::export(&self.0, &caller, request.into_inner()).await;
        answer.map(Response::new).map_err(|fault| self.status("export_audit", &fault))
    }

    type UploadRecordingStream = Answers<RecordingAck>;
    async fn upload_recording(
        &self,
        request: Request<Streaming<RecordingPart>>,
    ) -> Result<Response<Self::UploadRecordingStream>, Status> {
        let caller = caller(&request)?;
        let answer = recordings::upload(&self.0, &caller, request.into_inner());
        answer.map(Response::new).map_err(|fault| self.status("upload_recording", &fault))
    }
}

impl Service {
    fn status(&self, call: &str, fault: &Fault) -> Status {
        self.0.report(call, fault);
        mezite_proto::status(fault)
    }
}

/// The caller that the gate found out.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::internal("the caller is not known"))
}

/// Holds a user against the decision table of the API; a refusal is audited.
///
/// # Errors
/// [`Fault::Denied`].
async fn authorize(hub: &Hub, caller: &Caller, verb: Verb, resource: Resource, what: &str) -> Result<(), Fault> {
    if may(&caller.user()?.roles, verb, resource, false) {
        return Ok(());
    }
    gate::note_denied(hub, caller, what).await?;
    Err(Fault::Denied("your roles do not allow this".into()))
}

/// Whether a user may read everything of a sort, or only what is the user's own.
fn reads_all(caller: &Caller, resource: Resource) -> Result<bool, Fault> {
    Ok(may(&caller.user()?.roles, Verb::Read, resource, false))
}

fn page(token: String, size: u32) -> Page {
    Page { token, size }
}
