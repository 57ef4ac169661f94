//! A running Auth service and callers of every sort.

use std::path::Path;

use mezite_auth::{AuthConfig, AuthError, FirstAdmin, Running, start};
use mezite_net::dial::Dialer;
use mezite_net::rpc::{AUTHORIZATION, bearer, channel};
use mezite_net::tls::{ALPN_H2, LiveIdentity, LiveRoots, TlsIdentity, TlsKey, Trust, client_config};
use mezite_proto::v1::auth_client::AuthClient;
use mezite_proto::v1::*;
use mezite_ssh::key::PrivateKey;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Status};
use zeroize::Zeroizing;

pub(crate) const PASSWORD: &str = "correct horse battery";

pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    pub(crate) running: Option<Running>,
    pub(crate) stop: CancellationToken,
}

pub(crate) fn config(dir: &Path) -> AuthConfig {
    AuthConfig {
        cluster_name: "example".into(),
        data_dir: dir.into(),
        database: dir.join("mezhub.db"),
        listen_addr: ([127, 0, 0, 1], 0).into(),
        names: Vec::new(),
        proxy_addr: "hub.example.com:443".into(),
        ca_key_passphrase: None,
        audit_hmac_key: None,
        audit_hmac_keys_former: Vec::new(),
        first_admin: FirstAdmin::Password(Zeroizing::new(PASSWORD.into())),
        password_cost: 4,
    }
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let running = Some(start(config(dir.path()), stop.clone()).await.unwrap());
        Self { dir, running, stop }
    }

    /// Stops the service and starts it again on the same data.
    pub(crate) async fn restart(&mut self, change: impl FnOnce(&mut AuthConfig)) -> Result<(), AuthError> {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            running.stopped().await;
        }
        self.stop = CancellationToken::new();
        let mut config = config(self.dir.path());
        change(&mut config);
        self.running = Some(start(config, self.stop.clone()).await?);
        Ok(())
    }

    pub(crate) fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn channel(&self, identity: Option<TlsIdentity>) -> Channel {
        let roots = LiveRoots::from_pem(&self.running().tls_ca_pem).unwrap();
        let identity = identity.map(|identity| LiveIdentity::new(identity).unwrap());
        let tls = client_config(Trust::Roots(roots, None), identity, ALPN_H2, true).unwrap();
        let dialer = Dialer::new(vec![self.running().addr.to_string()], tls).unwrap();
        channel(dialer)
    }

    pub(crate) fn nobody(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel(None))
    }

    pub(crate) async fn login(&self, username: &str, password: &str) -> Result<AuthenticateLocalReply, Status> {
        self.login_with(username, password, "").await
    }

    pub(crate) async fn login_with(
        &self,
        username: &str,
        password: &str,
        otp: &str,
    ) -> Result<AuthenticateLocalReply, Status> {
        let request =
            AuthenticateLocalRequest { username: username.into(), password: password.into(), otp: otp.into() };
        self.nobody().authenticate_local(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn user(&self, username: &str) -> Caller {
        let token = self.login(username, PASSWORD).await.unwrap().session_id;
        Caller { client: self.nobody(), token: Some(token) }
    }

    pub(crate) async fn admin(&self) -> Caller {
        self.user("admin").await
    }

    /// A user made by the administrator.
    pub(crate) async fn new_user(&self, name: &str, roles: &[&str], logins: &[&str]) -> Caller {
        let spec = serde_json::json!({ "roles": roles, "traits": { "logins": logins } });
        let request =
            CreateUserRequest { name: name.into(), spec: spec.to_string().into_bytes(), password: PASSWORD.into() };
        let mut admin = self.admin().await;
        admin.client.create_user(admin.with(request)).await.unwrap();
        self.user(name).await
    }

    pub(crate) async fn token(&self, role: &str) -> CreateTokenReply {
        let mut admin = self.admin().await;
        let request = CreateTokenRequest {
            roles: vec![role.into()],
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            ..CreateTokenRequest::default()
        };
        admin.client.create_token(admin.with(request)).await.unwrap().into_inner()
    }

    /// A machine that joined.
    pub(crate) async fn machine(&self, role: &str, name: &str) -> Machine {
        let token = self.token(role).await.token;
        let (request, key) = joining(&token, role, name);
        let certs = self.nobody().generate_host_certs(request).await.unwrap().into_inner();
        self.as_machine(certs, &key)
    }

    pub(crate) fn as_machine(&self, certs: GenerateHostCertsReply, key: &TlsKey) -> Machine {
        Machine { client: AuthClient::new(self.channel(Some(identity(&certs, key)))), certs }
    }

    /// The bare channel of a machine that joined.
    pub(crate) async fn machine_channel(&self, role: &str, name: &str) -> Channel {
        let token = self.token(role).await.token;
        let (request, key) = joining(&token, role, name);
        let certs = self.nobody().generate_host_certs(request).await.unwrap().into_inner();
        self.channel(Some(identity(&certs, &key)))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Somebody with a session token.
pub(crate) struct Caller {
    pub(crate) client: AuthClient<Channel>,
    pub(crate) token: Option<String>,
}

impl Caller {
    pub(crate) fn with<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert(AUTHORIZATION, bearer(token).unwrap());
        }
        request
    }
}

/// An agent or a proxy with its certificate.
pub(crate) struct Machine {
    pub(crate) client: AuthClient<Channel>,
    pub(crate) certs: GenerateHostCertsReply,
}

fn identity(certs: &GenerateHostCertsReply, key: &TlsKey) -> TlsIdentity {
    TlsIdentity::from_der(certificates(&certs.tls_certificate_pem), key.private.clone_key().into())
}

pub(crate) fn joining(token: &str, role: &str, name: &str) -> (GenerateHostCertsRequest, TlsKey) {
    let key = TlsKey::generate().unwrap();
    let request = GenerateHostCertsRequest {
        token: token.into(),
        role: role.into(),
        name: name.into(),
        ssh_public_key: PrivateKey::generate().unwrap().public().to_wire(),
        tls_public_key: key.public.clone(),
        addresses: Vec::new(),
    };
    (request, key)
}

pub(crate) fn certificates(pem: &str) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}
