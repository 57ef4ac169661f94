//! The way back in when nobody can administer any more. Only on the hub's own machine: it takes the database file and the
//! passphrase of the CA keys, and no hub may be running on them.

use mezite_core::audit::EventType;
use mezite_core::kind::{Kind, Lock, User};
use mezite_core::lock::{self, Subject};
use mezite_net::clock;
use mezite_store::{Expect, Options, Store};
use zeroize::Zeroizing;

use crate::bootstrap::{self, ADMIN};
use crate::ca::Authorities;
use crate::ca::seal::Sealer;
use crate::event::Events;
use crate::issue::user::end_certificates;
use crate::login::mfa::TOTP;
use crate::login::password::Passwords;
use crate::start::{AuthConfig, audit_keys};
use crate::{AuthError, start};

/// An administrator who can log in again. `Debug` shows no password.
pub struct Recovered {
    /// The new password; show it once, on a terminal only.
    pub password: Zeroizing<String>,
    /// Whether the user was made.
    pub created: bool,
    /// Names of the locks that stopped the user and are removed.
    pub locks: Vec<String>,
    /// How many second factors were removed.
    pub factors: u64,
}

impl std::fmt::Debug for Recovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recovered").field("created", &self.created).field("locks", &self.locks).finish_non_exhaustive()
    }
}

/// Makes `name` an administrator with a new random password, and removes what stops that user: locks, second factors, open
/// logins and invitations. All of it commits together with its events.
///
/// # Errors
/// [`AuthError`] when there is no database, the passphrase is wrong, or the name is not one.
pub async fn recover(config: &AuthConfig, name: &str) -> Result<Recovered, AuthError> {
    if !config.database.exists() {
        return Err(AuthError::new(format!(
            "there is no database at {}; the first start makes an administrator",
            config.database.display()
        )));
    }
    let events = Events { cluster: config.cluster_name.clone() };
    let options = Options { path: config.database.clone(), readers: 1, audit_keys: audit_keys(config)? };
    let key_id = options.audit_keys.current.id().to_owned();
    let store = Store::open(options).await?;
    // Whoever has the file and not the passphrase gets no further.
    Authorities::open(&store, Sealer::new(config.ca_key_passphrase.clone(), config.data_dir.join("ca.key")), &events)
        .await?;
    start::begin_segment(&store, &events, &key_id).await?;
    bootstrap::roles(&store, &events).await?;
    let password = bootstrap::random_password();
    let hash = Passwords::new(config.password_cost, 1)?.hash(password.clone()).await?;
    let (created, locks, factors) = write(&store, &events, name, &hash).await?;
    store.close().await;
    Ok(Recovered { password, created, locks, factors })
}

async fn write(store: &Store, events: &Events, name: &str, hash: &str) -> Result<(bool, Vec<String>, u64), AuthError> {
    let locks = store.all::<Lock>().await?;
    let now = clock::now();
    let mut tx = store.begin(now).await?;
    let held = tx.find::<User>(name).await?;
    let created = held.is_none();
    let mut spec = held.and_then(|user| user.spec.ok()).unwrap_or_default();
    if !spec.roles.iter().any(|role| role == ADMIN) {
        spec.roles.push(ADMIN.into());
    }
    spec.expires.remove(ADMIN);
    let user = tx.put::<User>(name, &spec, Expect::Any).await?;
    tx.set_password_hash(name, hash).await?;
    tx.revoke_logins(name, None).await?;
    tx.revoke_invites(name).await?;
    end_certificates(&mut tx, name).await?;
    let factors = tx.reset_mfa(&user.id, TOTP).await?;
    let subject = Subject { user: name, roles: &spec.roles, ..Subject::default() };
    let mut removed = Vec::new();
    for object in locks {
        let lock = match object.spec {
            Ok(spec) => lock::Lock::new(object.name.clone(), spec),
            Err(_) => lock::Lock::from_stored(object.name.clone(), &serde_json::Value::Null),
        };
        if lock.stops(subject, now) {
            tx.delete::<Lock>(&object.name, Expect::Any).await?;
            let event = events.event(EventType::LockDeleted).resource(Lock::KIND, &object.name);
            tx.audit(&event.detail("reason", "recovered")).await?;
            removed.push(object.name);
        }
    }
    let event = events.event(EventType::UserRecovered).resource(User::KIND, name);
    let event = event.detail("created", created).detail("locks_removed", &removed).detail("factors_removed", factors);
    tx.audit(&event).await?;
    tx.commit().await?;
    Ok((created, removed, factors))
}
