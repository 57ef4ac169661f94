//! Second factors that were proven for a session and may serve further ones for a while.

use mezite_core::{Fault, when};
use time::{Duration, OffsetDateTime};

use crate::fault::column;
use crate::{Store, Tx};

/// Whom and where a proof serves. It belongs to the factor that gave it, and goes with it.
#[derive(Clone, Copy, Debug)]
pub struct MfaProof<'a> {
    /// Fingerprint of the user's key.
    pub user_key: &'a str,
    /// Address the user came from.
    pub source: &'a str,
}

impl Store {
    /// Name of the factor whose proof serves a user now: one that is younger than `reuse`, and within the time for which it was
    /// given.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn mfa_proof(
        &self,
        user_id: &str,
        proof: MfaProof<'_>,
        reuse: Duration,
        now: OffsetDateTime,
    ) -> Result<Option<String>, Fault> {
        let sql = "SELECT d.name FROM mfa_proofs p JOIN mfa_devices d ON d.id = p.device_id
             WHERE d.user_id = $1 AND p.user_key = $2 AND p.source = $3
               AND p.proven_at > $4 AND p.proven_at <= $5 AND p.serves_until > $5
             ORDER BY p.proven_at DESC LIMIT 1";
        let oldest = when::millis(now.saturating_sub(reuse));
        let query = sqlx::query(sql).bind(user_id).bind(proof.user_key).bind(proof.source);
        let row = self.row(query.bind(oldest).bind(when::millis(now))).await?;
        row.map(|row| column(&row, 0)).transpose()
    }
}

impl Tx {
    /// Keeps a proof that a factor gave now, for `reuse`, and forgets those whose time is over.
    ///
    /// # Errors
    /// [`Fault::Conflict`] when the factor does not exist any more.
    pub async fn keep_mfa_proof(&mut self, device_id: &str, proof: MfaProof<'_>, reuse: Duration) -> Result<(), Fault> {
        let now = self.stamp();
        self.execute(sqlx::query("DELETE FROM mfa_proofs WHERE serves_until <= $1").bind(&now)).await?;
        let sql =
            "INSERT INTO mfa_proofs (device_id, user_key, source, proven_at, serves_until) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (device_id, user_key, source) DO UPDATE
             SET proven_at = excluded.proven_at, serves_until = excluded.serves_until";
        let until = when::millis(self.now().saturating_add(reuse));
        let insert = sqlx::query(sql).bind(device_id).bind(proof.user_key).bind(proof.source);
        self.execute(insert.bind(now).bind(until)).await.map(drop)
    }

    /// Ends every proof of a user.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn end_mfa_proofs(&mut self, username: &str) -> Result<(), Fault> {
        let sql = "DELETE FROM mfa_proofs WHERE device_id IN
             (SELECT d.id FROM mfa_devices d JOIN users u ON u.id = d.user_id WHERE u.name = $1)";
        self.execute(sqlx::query(sql).bind(username)).await.map(drop)
    }
}
