//! What the first start makes: the built-in roles and the first administrator.

use mezite_core::audit::EventType;
use mezite_core::kind::role::{BUILT_IN, built_in};
use mezite_core::kind::{Role, User, UserSpec};
use mezite_net::clock;
use mezite_store::{Expect, Page, Store};
use zeroize::Zeroizing;

use crate::event::Events;
use crate::login::password::{self, Passwords};
use crate::login::secret;
use crate::{AuthError, FirstAdmin};

/// Name of the first administrator.
pub(crate) const ADMIN: &str = "admin";

/// Makes the built-in roles that are missing.
pub(crate) async fn roles(store: &Store, events: &Events) -> Result<(), AuthError> {
    let mut tx = store.begin(clock::now()).await?;
    for name in BUILT_IN {
        if tx.find::<Role>(name).await?.is_none() {
            tx.put::<Role>(name, &built_in(name).unwrap_or_default(), Expect::Absent).await?;
            tx.audit(&events.event(EventType::RoleCreated).resource("role", name).detail("built_in", true)).await?;
        }
    }
    Ok(tx.commit().await?)
}

/// Whether this makes a first administrator: asked before a first start makes anything.
///
/// # Errors
/// What to set.
pub(crate) fn check(wanted: &FirstAdmin) -> Result<(), AuthError> {
    match wanted {
        FirstAdmin::Password(password) => {
            password::check(password).map_err(|e| AuthError::new(format!("MEZITE_ADMIN_PASSWORD: {e}")))
        }
        FirstAdmin::Random => Ok(()),
        FirstAdmin::Refuse => Err(AuthError::new(
            "there is no user yet, and no terminal to show a password on; set MEZITE_ADMIN_PASSWORD or \
             MEZITE_ADMIN_PASSWORD_FILE for the first start",
        )),
    }
}

/// A password of 128 random bits.
pub(crate) fn random_password() -> Zeroizing<String> {
    Zeroizing::new(secret().chars().take(32).collect())
}

/// Makes the first administrator when there is no user at all. The answer is the password, if it was made here.
pub(crate) async fn first_admin(
    store: &Store,
    events: &Events,
    passwords: &Passwords,
    wanted: FirstAdmin,
) -> Result<Option<Zeroizing<String>>, AuthError> {
    if !store.list::<User>(&Page::first(1)).await?.items.is_empty() {
        return Ok(None);
    }
    check(&wanted)?;
    let (password, shown) = match wanted {
        FirstAdmin::Password(password) => (password, None),
        FirstAdmin::Random | FirstAdmin::Refuse => {
            let password = random_password();
            (password.clone(), Some(password))
        }
    };
    let hash = passwords.hash(password).await?;
    let spec = UserSpec { roles: vec![ADMIN.into()], ..UserSpec::default() };
    let mut tx = store.begin(clock::now()).await?;
    tx.put::<User>(ADMIN, &spec, Expect::Absent).await?;
    tx.set_password_hash(ADMIN, &hash).await?;
    let event = events.event(EventType::UserCreated).resource("user", ADMIN).detail("roles", &spec.roles);
    tx.audit(&event.detail("first", true)).await?;
    tx.commit().await?;
    Ok(shown)
}
