//! Passwords: bcrypt (F124), hashed on blocking threads, a few at a time.
//!
//! bcrypt reads 72 bytes and stops at NUL. A password it would read in part is refused when it is set, and never matches
//! at login. Passwords are compared byte by byte; Unicode forms are not folded.

use std::sync::Arc;
use std::time::Duration;

use mezite_core::{Fault, Invalid};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Shortest password accepted, in characters.
pub(crate) const MIN_CHARS: usize = 8;
/// Longest password accepted, in bytes.
pub(crate) const MAX_BYTES: usize = 72;
/// How long a caller waits for its turn to hash.
const TURN: Duration = Duration::from_secs(10);

/// Hashes and verifies passwords.
#[derive(Clone)]
pub(crate) struct Passwords {
    cost: u32,
    turns: Arc<Semaphore>,
    /// A hash that no password is known for: compared with when there is none, so that the time is the same.
    dummy: Arc<str>,
}

/// Whether a password may be set.
///
/// # Errors
/// [`Invalid`] saying which rule it breaks.
pub(crate) fn check(password: &str) -> Result<(), Invalid> {
    let refuse = |message: String| Err(Invalid::new("password", message));
    if password.chars().count() < MIN_CHARS {
        return refuse(format!("must have at least {MIN_CHARS} characters"));
    }
    if password.len() > MAX_BYTES {
        return refuse(format!("must have at most {MAX_BYTES} bytes, as bcrypt would ignore the rest"));
    }
    if password.contains('\0') {
        return refuse("must not hold a NUL character".into());
    }
    Ok(())
}

impl Passwords {
    /// With this bcrypt cost; `parallel` hashes run at once.
    pub(crate) fn new(cost: u32, parallel: usize) -> Result<Self, Fault> {
        let dummy = bcrypt::hash(mezite_net::clock::random::<32>().map(|b| b | 1), cost).map_err(broken)?;
        Ok(Self { cost, turns: Arc::new(Semaphore::new(parallel.max(1))), dummy: dummy.into() })
    }

    /// The hash to store.
    ///
    /// # Errors
    /// [`Fault::Invalid`] by [`check`]; [`Fault::Unavailable`] when too many hash already.
    pub(crate) async fn hash(&self, password: Zeroizing<String>) -> Result<String, Fault> {
        check(&password)?;
        let cost = self.cost;
        self.run(move || bcrypt::hash(password.as_bytes(), cost)).await?.map_err(broken)
    }

    /// Whether `password` is the one behind `hash`. Takes as long without a hash, or for a password that cannot match.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when too many hash already.
    pub(crate) async fn verify(&self, password: Zeroizing<String>, hash: Option<String>) -> Result<bool, Fault> {
        let dummy = Arc::clone(&self.dummy);
        self.run(move || {
            let can_match = hash.is_some() && password.len() <= MAX_BYTES && !password.contains('\0');
            let hash = hash.as_deref().filter(|_| can_match).unwrap_or(&dummy);
            let tried = if can_match { password.as_bytes() } else { b"." };
            // A stored hash that cannot be read matches nothing.
            bcrypt::verify(tried, hash).unwrap_or(false) && can_match
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
        let busy = || Fault::Unavailable("too many logins at once; try again".into());
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.turns).acquire_owned());
        let turn = turn.await.map_err(|_| busy())?.map_err(|_| busy())?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        done.await.map_err(|e| Fault::Bug(format!("hashing a password: {e}")))
    }
}

fn broken(error: bcrypt::BcryptError) -> Fault {
    Fault::Bug(format!("hashing a password: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[test]
    fn passwords_bcrypt_would_cut_are_refused() {
        assert!(check("eight888").is_ok());
        assert!(check(&"x".repeat(MAX_BYTES)).is_ok());
        for bad in ["", "short77", "nul\0in the middle", &"x".repeat(MAX_BYTES + 1), &"ü".repeat(40)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn only_the_password_itself_matches() {
        let passwords = Passwords::new(4, 2).unwrap();
        let long = "p".repeat(MAX_BYTES);
        let hash = passwords.hash(secret(&long)).await.unwrap();
        assert!(passwords.verify(secret(&long), Some(hash.clone())).await.unwrap());
        for wrong in [format!("{long}x"), format!("{long}\0"), "p".repeat(71), String::new(), "x".repeat(1 << 20)] {
            assert!(!passwords.verify(secret(&wrong), Some(hash.clone())).await.unwrap());
        }
        assert!(!passwords.verify(secret("."), None).await.unwrap());
        assert!(!passwords.verify(secret("x"), Some("not a hash".into())).await.unwrap());
    }
}
