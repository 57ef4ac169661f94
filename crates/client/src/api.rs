//! Requests and answers of the proxy's REST interface (`/v1/webapi/…`), as far as clients use it.

use std::collections::BTreeMap;

use mezite_core::Labels;
use serde::{Deserialize, Serialize};

/// `GET ping`: who answers, and where its other listeners are.
#[derive(Clone, Debug, Deserialize)]
pub struct Ping {
    /// Name of the cluster.
    pub cluster_name: String,
    /// Version of the hub.
    #[serde(default)]
    pub version: String,
    /// `HOST:PORT` of the SSH listener.
    pub ssh_addr: String,
}

/// `POST login`.
#[derive(Serialize)]
pub struct LoginRequest<'a> {
    /// Mezite user.
    pub username: &'a str,
    /// Their password.
    pub password: &'a str,
    /// A code of their second factor; empty for none.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub otp: &'a str,
}

/// `GET mfa`.
#[derive(Deserialize)]
pub struct Factors {
    /// Oldest first.
    pub factors: Vec<Factor>,
}

/// One second factor.
#[derive(Deserialize, Serialize)]
pub struct Factor {
    /// What the user calls it.
    pub name: String,
    /// `totp`.
    pub r#type: String,
    /// When it was enrolled, unix seconds.
    pub added_unix: i64,
    /// When it was last used, unix seconds; 0 for never.
    #[serde(default)]
    pub last_used_unix: i64,
}

/// `POST mfa/totp/begin`.
#[derive(Serialize)]
pub struct EnrolRequest<'a> {
    /// What the factor is called; empty for its type.
    pub name: &'a str,
    /// A code of a factor that is there; empty for the first.
    pub otp: &'a str,
}

/// Its answer.
#[derive(Deserialize)]
pub struct Enrolment {
    /// By which the enrolment is ended.
    pub id: String,
    /// `otpauth://…`: a secret.
    pub uri: String,
}

/// `POST mfa/totp/finish`.
#[derive(Serialize)]
pub struct ConfirmRequest<'a> {
    /// Of the enrolment.
    pub id: &'a str,
    /// A code of the new factor.
    pub code: &'a str,
}

/// `POST mfa/remove`.
#[derive(Serialize)]
pub struct RemoveFactor<'a> {
    /// Of the factor.
    pub name: &'a str,
    /// A code of any factor.
    pub otp: &'a str,
}

/// Answer to `POST login`.
#[derive(Deserialize)]
pub struct LoginReply {
    /// The bearer token: a secret.
    pub session_id: String,
    /// The user as the hub writes the name.
    pub username: String,
    /// End of the token, unix seconds.
    pub expires_unix: i64,
    /// `HOST:PORT` of the SSH listener.
    pub ssh_addr: String,
    /// Name of the cluster.
    pub cluster_name: String,
}

/// `POST certs`.
#[derive(Serialize)]
pub struct CertsRequest<'a> {
    /// OpenSSH public key line.
    pub ssh_public_key: &'a str,
    /// Asked lifetime, 0 for the cluster's own; the hub may give less, never more.
    pub ttl_seconds: u64,
}

/// Answer to `POST certs`.
#[derive(Deserialize)]
pub struct CertsReply {
    /// OpenSSH certificate line.
    pub ssh_certificate: String,
    /// OpenSSH lines of the Host CA's keys.
    pub host_authorities: Vec<String>,
    /// PEM of the Host CA's X.509 bundle.
    pub tls_ca_pem: String,
    /// OS logins of the certificate.
    #[serde(default)]
    pub logins: Vec<String>,
}

/// `POST password`.
#[derive(Serialize)]
pub struct PasswordRequest<'a> {
    /// The password in force.
    pub old_password: &'a str,
    /// The one to come.
    pub new_password: &'a str,
    /// A code of a second factor; empty for none.
    pub otp: &'a str,
}

/// `POST invite`.
#[derive(Serialize)]
pub struct InviteRequest<'a> {
    /// Single-use token of the invitation.
    pub token: &'a str,
    /// The first password.
    pub password: &'a str,
}

/// Its answer.
#[derive(Deserialize)]
pub struct Invited {
    /// Who was invited.
    #[serde(default)]
    pub username: String,
}

/// `GET nodes`.
#[derive(Debug, Deserialize)]
pub struct Nodes {
    /// Every node the user may see.
    pub nodes: Vec<Node>,
}

/// One node.
#[derive(Debug, Serialize, Deserialize)]
pub struct Node {
    /// Stable id.
    pub id: Option<String>,
    /// Its name.
    pub hostname: String,
    /// `node`, or `openssh`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// `online` or `offline`.
    pub status: String,
    /// Labels, sorted by key.
    pub labels: Option<Labels>,
    /// Version of the agent.
    pub version: Option<String>,
    /// What else the hub tells.
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}

/// `GET sessions`.
#[derive(Debug, Deserialize)]
pub struct Sessions {
    /// Newest first.
    pub sessions: Vec<Session>,
}

/// One session.
#[derive(Debug, Serialize, Deserialize)]
pub struct Session {
    /// UUID.
    pub id: String,
    /// Mezite user.
    pub user: String,
    /// Name of the node.
    pub node: String,
    /// OS login.
    pub login: String,
    /// RFC 3339, UTC.
    pub started: String,
    /// RFC 3339, UTC; absent or empty while the session lives.
    #[serde(default)]
    pub ended: Option<String>,
    /// What else the hub tells.
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}
