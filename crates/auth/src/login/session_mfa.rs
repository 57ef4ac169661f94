//! Second factors of sessions: a node asks its visitor for a code, and this service looks at it.
//!
//! An answer is for the node that asks, known by its own certificate, and for one user, key, login, source and moment. Nothing
//! is kept of it, except where every role that asks for a factor lets a proof serve again: for the shortest of their times,
//! for the same user, key and source. A code is used up by this as by a login, so that neither serves for the other.
//!
//! Guesses are counted apart from those at logins: a node that makes them up keeps nobody from logging in.

use std::net::IpAddr;
use std::time::Instant;

use mezite_core::audit::{Event, EventType, refusal};
use mezite_core::identity::Identity;
use mezite_core::kind::role::JoinMode;
use mezite_core::kind::{self, NodeSpec};
use mezite_core::name::JOIN_LOGIN;
use mezite_core::rbac::{self, Denied, Joining, Proof, Question, Standing, Survey, Target, Users};
use mezite_core::{Fault, Invalid};
use mezite_net::clock;
use mezite_net::watch::Trust;
use mezite_proto::v1::prove_session_mfa_reply::Answer;
use mezite_proto::v1::{ProveSessionMfaReply, ProveSessionMfaRequest};
use mezite_ssh::cert::{self, CertKind, Certificate, Policy};
use mezite_store::{MfaProof, Session};

use super::mfa;
use crate::bursts::Cause;
use crate::caller::Caller;
use crate::hub::Hub;
use crate::join::unlocked_node;
use crate::rpc::gate::note_denied;

/// Somebody whom a node would let in but for a second factor.
struct Visitor<'a> {
    hub: &'a Hub,
    node: NodeSpec,
    identity: Identity,
    /// Fingerprint of the key that the certificate is for.
    key: String,
    login: &'a str,
    /// Id of the session that is joined; empty: the visitor logs in.
    joins: &'a str,
    source: String,
    address: IpAddr,
    /// How long a proof may serve; zero: not again.
    reuse: time::Duration,
}

/// Answers a node: for no code, whether an earlier proof serves; for a code, whether it is right and unused.
///
/// # Errors
/// [`Fault::Denied`] when the certificate is not good or the user would not be let in anyway; [`Fault::Invalid`] for what is no
/// certificate or address; [`Fault::Conflict`] for a locked node.
pub(crate) async fn prove(
    hub: &Hub,
    caller: &Caller,
    request: ProveSessionMfaRequest,
) -> Result<ProveSessionMfaReply, Fault> {
    let visitor = Visitor::admit(hub, caller, &request).await?;
    // One code at a time: of parallel sessions with one code the first shows it, and where it serves again the others follow.
    let _turn = match request.otp.is_empty() {
        true => None,
        false => Some(hub.session_code_turn.lock().await),
    };
    if let Some(served) = visitor.earlier().await? {
        return Ok(served);
    }
    if request.otp.is_empty() {
        return visitor.without_code().await;
    }
    if let Err(wait) = hub.session_codes.admit(&visitor.identity.user, visitor.address, Instant::now()) {
        let reply = visitor.no(Answer::TooMany, "there were too many wrong codes").await?;
        return Ok(ProveSessionMfaReply {
            wait_seconds: u32::try_from(wait.as_secs() + 1).unwrap_or(u32::MAX),
            ..reply
        });
    }
    visitor.with_code(&request.otp).await
}

fn answer(answer: Answer) -> ProveSessionMfaReply {
    ProveSessionMfaReply { answer: answer.into(), ..ProveSessionMfaReply::default() }
}

impl<'a> Visitor<'a> {
    /// Decides as the node did, with what is known here.
    async fn admit(hub: &'a Hub, caller: &Caller, request: &'a ProveSessionMfaRequest) -> Result<Self, Fault> {
        let node = unlocked_node(hub, &caller.agent()?.id).await?;
        let address: IpAddr = request.client_ip.parse().map_err(|_| Invalid::new("client_ip", "is not an address"))?;
        let address = address.to_canonical();
        if (request.login == JOIN_LOGIN) == request.join_session.is_empty() {
            return Err(
                Invalid::new("join_session", format!("goes with the login {JOIN_LOGIN}, and with no other")).into()
            );
        }
        let certificate = Certificate::from_wire(&request.certificate)
            .map_err(|error| Invalid::new("certificate", error.to_string()))?;
        let identity = match identity(hub, &certificate, &request.login, address) {
            Ok(identity) => identity,
            Err(fault) => {
                note_denied(hub, caller, "ProveSessionMfa").await?;
                return Err(fault);
            }
        };
        let visitor = Self {
            hub,
            node,
            identity,
            key: certificate.public_key.fingerprint(),
            login: &request.login,
            joins: &request.join_session,
            source: address.to_string(),
            address,
            reuse: time::Duration::ZERO,
        };
        match visitor.decide().await? {
            Ok(reuse) => Ok(Self { reuse, ..visitor }),
            Err(denied) => Err(visitor.denied(&denied).await?),
        }
    }

    /// For how long a proof may serve. The inner error is why the node would not let the visitor in even with a factor.
    async fn decide(&self) -> Result<Result<time::Duration, Denied>, Fault> {
        let Self { hub, identity, node, login, .. } = self;
        let user = standing(hub, &identity.user).await?;
        let joined = self.joined().await?;
        let (roles, locks) = (hub.roles().await?, hub.locks().await?);
        let now = clock::now();
        let question = Question {
            identity,
            roles: &roles,
            target: Target { node_id: &node.node_id, name: &node.hostname, labels: &node.labels },
            login: Some(login),
            locks: &locks,
            proof: Proof::Nothing,
            now,
        };
        let answer = rbac::standing(identity, &Users::from_iter(user), now).and_then(|bound| {
            let question = Question { identity: &bound, ..question };
            match &joined {
                Some((session, owner)) => may_join(&question, session, owner),
                None => rbac::check(&question).map(drop),
            }
        });
        Ok(match answer {
            // The node asks for what no role asks for any more: it is answered, and nothing is kept.
            Ok(()) => Ok(time::Duration::ZERO),
            Err(denied) => match denied.needs() {
                Some(needed) => Ok(time::Duration::try_from(needed.reuse).unwrap_or_default()),
                None => Err(denied),
            },
        })
    }

    /// The session of this node that is joined, and its owner.
    async fn joined(&self) -> Result<Option<(Session, Standing)>, Fault> {
        if self.joins.is_empty() {
            return Ok(None);
        }
        let gone = || Fault::NotFound("no such session, or it has ended".into());
        let lives = |session: &Session| session.node_id == self.node.node_id && session.ended_at.is_none();
        let session = self.hub.store.session(self.joins).await?.filter(lives).ok_or_else(gone)?;
        let (_, owner) = standing(self.hub, &session.user).await?.ok_or_else(gone)?;
        Ok(Some((session, owner)))
    }

    /// The answer that an earlier proof gives.
    async fn earlier(&self) -> Result<Option<ProveSessionMfaReply>, Fault> {
        let Self { hub, identity, reuse, .. } = self;
        let earlier = hub.store.mfa_proof(&identity.user_id, self.proof(), *reuse, clock::now()).await?;
        let Some(factor) = earlier else { return Ok(None) };
        let event = self.event(EventType::SessionMfaProven).detail("factor", factor).detail("reused", true);
        hub.store.audit(vec![event]).await?;
        Ok(Some(answer(Answer::Proven)))
    }

    async fn without_code(&self) -> Result<ProveSessionMfaReply, Fault> {
        match self.hub.store.mfa_devices(&self.identity.user).await?.is_empty() {
            true => self.not_enrolled().await,
            false => Ok(answer(Answer::CodeNeeded)),
        }
    }

    async fn with_code(&self, otp: &str) -> Result<ProveSessionMfaReply, Fault> {
        let Self { hub, identity, .. } = self;
        let user = &identity.user;
        let proof = match mfa::look(hub, user, otp).await? {
            mfa::Factor::Right(proof) => proof,
            mfa::Factor::Absent => return self.not_enrolled().await,
            mfa::Factor::Wrong | mfa::Factor::Missing => return self.no(Answer::CodeWrong, "the code is wrong").await,
        };
        let mut tx = hub.store.begin(clock::now()).await?;
        // Again while nobody else writes: a lock that came meanwhile has ended the user's proofs, and this one would outlive it.
        let reuse = match self.decide().await? {
            Ok(reuse) => reuse,
            Err(denied) => {
                drop(tx);
                return Err(self.denied(&denied).await?);
            }
        };
        if !proof.spend(&mut tx).await? {
            drop(tx);
            return self.no(Answer::CodeWrong, "the code was used already").await;
        }
        if reuse.is_positive() {
            tx.keep_mfa_proof(proof.device_id(), self.proof(), reuse).await?;
        }
        tx.audit(&self.event(EventType::SessionMfaProven).detail("factor", proof.device())).await?;
        tx.commit().await?;
        hub.session_codes.succeeded(user, self.address, Instant::now());
        Ok(answer(Answer::Proven))
    }

    async fn not_enrolled(&self) -> Result<ProveSessionMfaReply, Fault> {
        self.no(Answer::NotEnrolled, "the user has no second factor").await
    }

    async fn denied(&self, denied: &Denied) -> Result<Fault, Fault> {
        let reason = denied.to_string();
        let reference = self.refused(denied.event_type(), &reason).await?;
        Ok(Fault::Denied(refusal(&reason, &reference)))
    }

    async fn no(&self, no: Answer, why: &str) -> Result<ProveSessionMfaReply, Fault> {
        let reference = self.refused(EventType::AccessDeniedMfa, why).await?;
        Ok(ProveSessionMfaReply { reference, ..answer(no) })
    }

    fn proof(&self) -> MfaProof<'_> {
        MfaProof { user_key: &self.key, source: &self.source }
    }

    fn event(&self, kind: EventType) -> Event {
        let Self { hub, identity, node, login, source, .. } = self;
        let mut event = hub.event(kind).user(&identity.user, &identity.roles).resource("node", &node.hostname);
        self.joins.clone_into(&mut event.session_id);
        event.server_hostname.clone_from(&node.hostname);
        event.server_id.clone_from(&node.node_id);
        event.client_ip.clone_from(source);
        (*login).clone_into(&mut event.login);
        event
    }

    /// Writes a refusal; the answer is the id of its event.
    async fn refused(&self, kind: EventType, why: &str) -> Result<String, Fault> {
        let mut event = self.event(kind);
        why.clone_into(&mut event.error_message);
        let (id, cause) = (event.id.clone(), Cause::new(&self.node.node_id, &self.identity.user));
        self.hub.audit_refusals(vec![(cause, event)]).await?;
        Ok(id)
    }
}

async fn standing(hub: &Hub, user: &str) -> Result<Option<(String, Standing)>, Fault> {
    let user = hub.store.find::<kind::User>(user).await?;
    Ok(user.map(|user| (user.name.clone(), crate::hub::standing(&user))))
}

/// Whether the visitor may join the session in some mode, as the node decides it.
fn may_join(question: &Question<'_>, session: &Session, owner: &Standing) -> Result<(), Denied> {
    let survey = Survey { roles: question.roles, locks: question.locks, now: question.now };
    let identity = survey.identity(&session.user, owner);
    let login = Some(session.login.as_str());
    let permit = rbac::check(&Question { identity: &identity, login, proof: Proof::AskedLater, ..*question })?;
    let joining = Joining {
        mode: JoinMode::Observer,
        login: &session.login,
        owner_roles: &owner.roles,
        requirements: permit.moderation(),
    };
    rbac::may_join_somehow(&Question { login: None, ..*question }, joining)
}

/// Who a certificate is of, if it is one of this cluster, in time, for this login and source.
fn identity(hub: &Hub, certificate: &Certificate, login: &str, source: IpAddr) -> Result<Identity, Fault> {
    let trust = Trust::from_bundle(&hub.authorities.trust()).map_err(Fault::Bug)?;
    let policy = Policy {
        kind: CertKind::User,
        authorities: &trust.user_authorities,
        now_unix: clock::now_unix(),
        // Who joins needs no login on the node.
        principal: Some(login).filter(|login| *login != JOIN_LOGIN),
        source: Some(source),
    };
    cert::verify(certificate, &policy).map_err(|error| Fault::Denied(format!("ssh: {error}")))?;
    let identity =
        Identity::from_certificate(&certificate.key_id, &certificate.principals, certificate.extension_texts())
            .map_err(|error| Fault::Denied(error.to_string()))?
            .since_unix(certificate.valid_after);
    if identity.cluster != hub.cluster() {
        return Err(Fault::Denied("the certificate is of another cluster".into()));
    }
    Ok(identity)
}
