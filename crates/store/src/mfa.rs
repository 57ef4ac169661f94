//! Second factors of users. Secrets arrive sealed, as those of authorities do.

use std::fmt;

use mezite_core::{Fault, when};
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use crate::fault::column;
use crate::{Store, Tx};

/// One factor of a user.
#[derive(Clone, PartialEq, Eq)]
pub struct MfaDevice {
    /// UUID; the seal of the secret is bound to it and to the user.
    pub id: String,
    /// Id of the user.
    pub user_id: String,
    /// `totp`.
    pub kind: String,
    /// What the user calls it; no two of a user have the same.
    pub name: String,
    /// The sealed secret.
    pub secret: Vec<u8>,
    /// When enrolment began.
    pub created_at: OffsetDateTime,
    /// When a code of it was last used.
    pub last_used_at: Option<OffsetDateTime>,
}

impl fmt::Debug for MfaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MfaDevice")
            .field("id", &self.id)
            .field("user_id", &self.user_id)
            .field("kind", &self.kind)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT d.id, d.user_id, d.type, d.name, d.secret, d.created_at, d.last_used_at
             FROM mfa_devices d JOIN users u ON u.id = d.user_id WHERE u.name = $1 AND ",
            $condition,
            " ORDER BY d.created_at, d.id"
        )
    };
}

impl Store {
    /// The factors that count for a user, oldest first; none for a user that does not exist.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn mfa_devices(&self, username: &str) -> Result<Vec<MfaDevice>, Fault> {
        let rows = self.rows(sqlx::query(select!("d.confirmed_at IS NOT NULL")).bind(username)).await?;
        rows.iter().map(decode).collect()
    }

    /// The factor that a user is enrolling.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn mfa_pending(&self, username: &str) -> Result<Option<MfaDevice>, Fault> {
        let row = self.row(sqlx::query(select!("d.confirmed_at IS NULL")).bind(username)).await?;
        row.as_ref().map(decode).transpose()
    }
}

impl Tx {
    /// Begins the enrolment of a factor, in place of one that was not ended. It counts for nothing yet.
    ///
    /// # Errors
    /// [`Fault::Conflict`] when the user does not exist any more.
    pub async fn begin_mfa(&mut self, device: &MfaDevice) -> Result<(), Fault> {
        let pending = "DELETE FROM mfa_devices WHERE user_id = $1 AND confirmed_at IS NULL";
        self.execute(sqlx::query(pending).bind(&device.user_id)).await?;
        let insert =
            "INSERT INTO mfa_devices (id, user_id, type, name, secret, created_at) VALUES ($1, $2, $3, $4, $5, $6)";
        let insert = sqlx::query(insert).bind(&device.id).bind(&device.user_id).bind(&device.kind);
        let insert = insert.bind(&device.name).bind(&device.secret).bind(when::millis(device.created_at));
        self.execute(insert).await.map(drop)
    }

    /// Ends an enrolment by a code of `step`, which is used up; the answer is whether it was still to be ended.
    ///
    /// # Errors
    /// [`Fault::Conflict`] when another factor of the user has the name by now.
    pub async fn confirm_mfa(&mut self, id: &str, step: u64) -> Result<bool, Fault> {
        let now = self.stamp();
        let sql = "UPDATE mfa_devices SET confirmed_at = $3, last_used_at = $3, last_step = $2
             WHERE id = $1 AND confirmed_at IS NULL";
        Ok(self.execute(sqlx::query(sql).bind(id).bind(step.cast_signed()).bind(now)).await? == 1)
    }

    /// Uses a step of a factor up; the answer is whether it, and every later one, was unused. One statement, so that of two
    /// who bring the same code one is refused, wherever they come in.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn use_mfa_step(&mut self, id: &str, step: u64) -> Result<bool, Fault> {
        let now = self.stamp();
        let sql = "UPDATE mfa_devices SET last_step = $2, last_used_at = $3
             WHERE id = $1 AND last_step < $2 AND confirmed_at IS NOT NULL";
        Ok(self.execute(sqlx::query(sql).bind(id).bind(step.cast_signed()).bind(now)).await? == 1)
    }

    /// Removes a factor of a user; the answer is whether there was one of this name.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn remove_mfa(&mut self, user_id: &str, name: &str) -> Result<bool, Fault> {
        let sql = "DELETE FROM mfa_devices WHERE user_id = $1 AND name = $2 AND confirmed_at IS NOT NULL";
        Ok(self.execute(sqlx::query(sql).bind(user_id).bind(name)).await? > 0)
    }

    /// Removes all factors of a kind from a user, also one that is being enrolled; answers how many counted.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn reset_mfa(&mut self, user_id: &str, kind: &str) -> Result<u64, Fault> {
        let pending = "DELETE FROM mfa_devices WHERE user_id = $1 AND type = $2 AND confirmed_at IS NULL";
        self.execute(sqlx::query(pending).bind(user_id).bind(kind)).await?;
        let all = "DELETE FROM mfa_devices WHERE user_id = $1 AND type = $2";
        self.execute(sqlx::query(all).bind(user_id).bind(kind)).await
    }
}

fn decode(row: &SqliteRow) -> Result<MfaDevice, Fault> {
    let last_used: Option<String> = column(row, 6)?;
    Ok(MfaDevice {
        id: column(row, 0)?,
        user_id: column(row, 1)?,
        kind: column(row, 2)?,
        name: column(row, 3)?,
        secret: column(row, 4)?,
        created_at: when::parse(&column::<String>(row, 5)?)?,
        last_used_at: last_used.map(|at| when::parse(&at)).transpose()?,
    })
}
