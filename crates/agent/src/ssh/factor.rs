//! Second factors: Auth keeps them and looks at the codes.

use std::time::Duration;

use mezite_core::audit::refusal;
use mezite_proto::v1;
use mezite_proto::v1::prove_session_mfa_reply::Answer;
use mezite_ssh::cert::Certificate;
use tokio::time::timeout;
use tonic::Code;

use crate::Agent;
use crate::ssh::{Dial, authenticate};

/// How often a code is asked for on one connection.
pub(super) const MAX_CODES: u32 = 3;
/// How long Auth may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a user without an authenticator hears.
const NOT_ENROLLED: &str = "your roles ask for a code of an authenticator app for each session, and you have none; run `msh mfa add \
                            --type=totp`";

/// What Auth says of a second factor.
pub(super) enum Outcome {
    /// It was shown, now or lately.
    Proven,
    /// A code is needed.
    CodeNeeded,
    /// The code is wrong or was used already; the id of Auth's event.
    Wrong(String),
    /// There is nothing to ask for; a sentence for the user. Auth has written the event.
    Refused(String),
    /// Auth could not be asked; why.
    Unasked(String),
}

/// Asks Auth about a code for a login on this node, or, with an empty one, whether an earlier proof serves.
pub(super) async fn prove(agent: &Agent, dial: &Dial, certificate: &Certificate, login: &str, code: &str) -> Outcome {
    let request = v1::ProveSessionMfaRequest {
        certificate: certificate.to_wire(),
        login: login.to_owned(),
        client_ip: authenticate::source(dial).map(|source| source.to_string()).unwrap_or_default(),
        otp: code.to_owned(),
        join_session: dial.grant.join_session.clone(),
    };
    let mut auth = agent.auth.clone();
    let reply = match timeout(PATIENCE, auth.prove_session_mfa(request)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) if status.code() == Code::PermissionDenied => {
            return Outcome::Refused(status.message().to_owned());
        }
        Ok(Err(status)) => return Outcome::Unasked(status.message().to_owned()),
        Err(_) => return Outcome::Unasked("the auth service does not answer".to_owned()),
    };
    match reply.answer() {
        Answer::Proven => Outcome::Proven,
        Answer::CodeNeeded => Outcome::CodeNeeded,
        Answer::CodeWrong => Outcome::Wrong(reply.reference),
        Answer::NotEnrolled => Outcome::Refused(refusal(NOT_ENROLLED, &reply.reference)),
        Answer::TooMany => {
            let reason = format!("too many wrong codes; try again in {} s", reply.wait_seconds);
            Outcome::Refused(refusal(&reason, &reply.reference))
        }
        Answer::Unspecified => Outcome::Unasked("the auth service gave no answer".to_owned()),
    }
}
