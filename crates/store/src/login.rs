//! Passwords, login sessions (the bearer tokens of users) and invites. Tokens are given in as they were made and kept as
//! hashes only; they cannot be read back.

use std::net::IpAddr;

use mezite_core::kind::{Kind, User};
use mezite_core::{Fault, when};
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use crate::fault::column;
use crate::watch::Change;
use crate::{Store, Tx, secret};

/// A valid login session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Id of the user.
    pub user_id: String,
    /// Name of the user.
    pub username: String,
    /// When the user logged in.
    pub created_at: OffsetDateTime,
    /// First moment at which the token is refused.
    pub expires_at: OffsetDateTime,
    /// Where from; `None` for one that is older than the record of it.
    pub source: Option<IpAddr>,
    /// Whether what comes of the login is good from there only.
    pub pinned: bool,
}

/// Where a login came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client's address.
    pub source: IpAddr,
    /// Whether what comes of the login is good from there only.
    pub pinned: bool,
}

impl Store {
    /// The password hash of a user; `None` when the user does not exist or has no password.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn password_hash(&self, username: &str) -> Result<Option<String>, Fault> {
        let sql = "SELECT password_hash FROM users WHERE name = $1";
        let hash = self.row(sqlx::query(sql).bind(username)).await?.map(|row| column(&row, 0)).transpose()?;
        Ok(hash.flatten())
    }

    /// The login session behind a bearer token, unless it is unknown, revoked or expired at `now`.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn login(&self, token: &str, now: OffsetDateTime) -> Result<Option<Login>, Fault> {
        let row = self
            .row(
                sqlx::query(
                    "SELECT u.id, u.name, s.created_at, s.expires_at, s.source_ip, s.pinned FROM api_sessions s JOIN users u ON u.id = s.user_id
             WHERE s.token_hash = $1 AND s.expires_at > $2",
                )
                .bind(secret::hash(token))
                .bind(when::millis(now)),
            )
            .await?;
        row.as_ref().map(decode).transpose()
    }
}

impl Tx {
    /// Sets a user's password hash.
    ///
    /// # Errors
    /// [`Fault::NotFound`] when there is no such user.
    pub async fn set_password_hash(&mut self, username: &str, hash: &str) -> Result<(), Fault> {
        let done = self
            .execute(sqlx::query("UPDATE users SET password_hash = $2 WHERE name = $1").bind(username).bind(hash))
            .await?;
        existed(done, username)
    }

    /// Whether a user's password hash still is the one that was looked at before this transaction.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn is_password_hash(&mut self, username: &str, hash: &str) -> Result<bool, Fault> {
        let sql = "SELECT 1 FROM users WHERE name = $1 AND password_hash = $2";
        Ok(self.row(sqlx::query(sql).bind(username).bind(hash)).await?.is_some())
    }

    /// Takes a user's password away: none matches.
    ///
    /// # Errors
    /// [`Fault::NotFound`] when there is no such user.
    pub async fn clear_password(&mut self, username: &str) -> Result<(), Fault> {
        let sql = "UPDATE users SET password_hash = NULL WHERE name = $1";
        existed(self.execute(sqlx::query(sql).bind(username)).await?, username)
    }

    /// Ends the certificates of a user that begin at `valid_after` (unix seconds) or before; watchers are told. The answer is
    /// the revision.
    ///
    /// # Errors
    /// [`Fault::NotFound`] when there is no such user.
    pub async fn end_certificates(&mut self, username: &str, valid_after: u64) -> Result<u64, Fault> {
        let revision = self.next_revision().await?;
        let sql = "UPDATE users SET certificates_from = max(certificates_from, $2), revision = $3 WHERE name = $1";
        let update = sqlx::query(sql).bind(username).bind(valid_after.cast_signed()).bind(revision.cast_signed());
        existed(self.execute(update).await?, username)?;
        // Whoever is told of a user reads it; the text says only that it is there.
        let json = Some("{}".into());
        self.announce(Change { kind: User::KIND, name: username.to_owned(), revision, json });
        Ok(revision)
    }

    /// Starts a login session of a user until `expires_at`, and forgets sessions that have expired.
    ///
    /// # Errors
    /// [`Fault::NotFound`] when there is no such user.
    pub async fn add_login(
        &mut self,
        username: &str,
        token: &str,
        expires_at: OffsetDateTime,
        origin: Origin,
    ) -> Result<(), Fault> {
        let now = self.stamp();
        self.execute(sqlx::query("DELETE FROM api_sessions WHERE expires_at <= $1").bind(&now)).await?;
        let insert = "INSERT INTO api_sessions (token_hash, user_id, created_at, expires_at, source_ip, pinned)
             SELECT $1, id, $3, $4, $5, $6 FROM users WHERE name = $2";
        let insert = sqlx::query(insert).bind(secret::hash(token)).bind(username).bind(now);
        let insert = insert.bind(when::millis(expires_at)).bind(origin.source.to_canonical().to_string());
        existed(self.execute(insert.bind(origin.pinned)).await?, username)
    }

    /// Ends one login session; the answer is whether there was one.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn revoke_login(&mut self, token: &str) -> Result<bool, Fault> {
        let done = self
            .execute(sqlx::query("DELETE FROM api_sessions WHERE token_hash = $1").bind(secret::hash(token)))
            .await?;
        Ok(done > 0)
    }

    /// Ends all login sessions of a user, except the one behind the token `keep`; answers how many.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn revoke_logins(&mut self, username: &str, keep: Option<&str>) -> Result<u64, Fault> {
        let done = self
            .execute(
                sqlx::query(
                    "DELETE FROM api_sessions
             WHERE user_id = (SELECT id FROM users WHERE name = $1) AND token_hash <> $2",
                )
                .bind(username)
                .bind(keep.map(secret::hash).unwrap_or_default()),
            )
            .await?;
        Ok(done)
    }

    /// Takes back the invites of a user that were not used.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn revoke_invites(&mut self, username: &str) -> Result<(), Fault> {
        let sql = "DELETE FROM invites WHERE used_at IS NULL AND user_id = (SELECT id FROM users WHERE name = $1)";
        self.execute(sqlx::query(sql).bind(username)).await?;
        Ok(())
    }

    /// Makes an invite for a user until `expires_at`. Earlier invites of the user that were not used lose their effect.
    ///
    /// # Errors
    /// [`Fault::NotFound`] when there is no such user.
    pub async fn add_invite(&mut self, username: &str, token: &str, expires_at: OffsetDateTime) -> Result<(), Fault> {
        self.revoke_invites(username).await?;
        let insert = "INSERT INTO invites (token_hash, user_id, created_at, expires_at)
             SELECT $1, id, $3, $4 FROM users WHERE name = $2";
        let now = self.stamp();
        let insert = sqlx::query(insert).bind(secret::hash(token)).bind(username).bind(now);
        let done = self.execute(insert.bind(when::millis(expires_at))).await?;
        existed(done, username)
    }

    /// Uses an invite up and answers whose it was; `None` when it is unknown, used or expired, which the caller must not
    /// tell apart to an outsider. Its effect belongs into the same transaction.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn use_invite(&mut self, token: &str) -> Result<Option<String>, Fault> {
        let now = self.stamp();
        let used = self
            .row(
                sqlx::query(
                    "UPDATE invites SET used_at = $2 WHERE token_hash = $1 AND used_at IS NULL AND expires_at > $2
                     RETURNING (SELECT name FROM users WHERE id = user_id)",
                )
                .bind(secret::hash(token))
                .bind(now),
            )
            .await?;
        used.map(|row| column(&row, 0)).transpose()
    }
}

/// Refuses when a write about a user found no row.
fn existed(rows: u64, username: &str) -> Result<(), Fault> {
    if rows == 0 { Err(Fault::NotFound(format!("user {username} does not exist"))) } else { Ok(()) }
}

fn decode(row: &SqliteRow) -> Result<Login, Fault> {
    Ok(Login {
        user_id: column(row, 0)?,
        username: column(row, 1)?,
        created_at: when::parse(&column::<String>(row, 2)?)?,
        expires_at: when::parse(&column::<String>(row, 3)?)?,
        source: column::<Option<String>>(row, 4)?.and_then(|address| address.parse().ok()),
        pinned: column(row, 5)?,
    })
}
