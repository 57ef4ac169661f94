//! What machines write beside the specs of tokens and nodes: a join token used up, heartbeats, tunnels, host certificates.
//! None of it has a revision or is told to watchers.

use mezite_core::kind::Token;
use mezite_core::{Fault, when};
use time::OffsetDateTime;

use crate::fault::column;
use crate::{Object, Store, Tx, secret};

/// A sign of life of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Id of the node.
    pub node_id: String,
    /// Sessions it carries.
    pub live_sessions: u32,
}

/// The host certificate a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCert {
    /// Fingerprint of the certified key.
    pub fingerprint: String,
    /// Fingerprint of the authority that signed it; shows who has not followed a rotation.
    pub signer_fingerprint: String,
    /// End of validity.
    pub expires_at: OffsetDateTime,
}

impl Tx {
    /// Gives a join token its secret. The secret is kept as a hash only.
    ///
    /// # Errors
    /// [`Fault::NotFound`] when there is no such token.
    pub async fn set_token_secret(&mut self, name: &str, secret: &str) -> Result<(), Fault> {
        let done = self
            .execute(
                sqlx::query("UPDATE tokens SET secret_hash = $2 WHERE name = $1").bind(name).bind(secret::hash(secret)),
            )
            .await?;
        if done == 0 { Err(Fault::NotFound(format!("token {name} does not exist"))) } else { Ok(()) }
    }

    /// Uses a join token up for `used_by` and answers the token; `None` when it is unknown, used, expired or unreadable,
    /// which the caller must not tell apart to an outsider. Whether the token allows what is asked for is the caller's to
    /// check; undo the transaction if not, else the token is gone. Its effect belongs into the same transaction (F366).
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn use_join_token(&mut self, secret: &str, used_by: &str) -> Result<Option<Object<Token>>, Fault> {
        let now = self.stamp();
        let used = self
            .row(
                sqlx::query(
                    "UPDATE tokens SET used_at = $2, used_by = $3 WHERE secret_hash = $1 AND used_at IS NULL RETURNING name",
                )
                .bind(secret::hash(secret))
                .bind(now)
                .bind(used_by),
            )
            .await?;
        let Some(used) = used else { return Ok(None) };
        let name: String = column(&used, 0)?;
        let now = self.now();
        let token = self.find::<Token>(&name).await?;
        Ok(token.filter(|token| token.spec.as_ref().is_ok_and(|spec| spec.expires > now)))
    }

    /// Notes the host certificate that a node was given.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn set_host_cert(&mut self, node_id: &str, cert: &HostCert) -> Result<(), Fault> {
        self.execute(sqlx::query(
            "UPDATE nodes SET host_cert_fingerprint = $2, host_cert_signer_fingerprint = $3, host_cert_expires_at = $4
             WHERE id = $1",
        )
        .bind(node_id)
        .bind(&cert.fingerprint)
        .bind(&cert.signer_fingerprint)
        .bind(when::millis(cert.expires_at))).await?;
        Ok(())
    }
}

impl Store {
    /// Notes signs of life, many in one write; unknown nodes are passed over. Answers how many were known (F190).
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn heartbeats(&self, beats: &[Heartbeat], now: OffsetDateTime) -> Result<u64, Fault> {
        let mut tx = self.begin(now).await?;
        let mut known = 0;
        for beat in beats {
            let stamp = tx.stamp();
            known += tx
                .execute(
                    sqlx::query("UPDATE nodes SET last_heartbeat = $2, live_sessions = $3 WHERE id = $1")
                        .bind(&beat.node_id)
                        .bind(stamp)
                        .bind(beat.live_sessions),
                )
                .await?;
        }
        tx.commit().await?;
        Ok(known)
    }

    /// Notes that the tunnels held by `holder` (a proxy) are exactly those of `node_ids`. A node whose tunnel moved to
    /// another holder in the meantime stays there.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn set_tunnels(&self, holder: &str, node_ids: &[String], now: OffsetDateTime) -> Result<(), Fault> {
        let ids = serde_json::to_string(node_ids).map_err(|e| Fault::Bug(e.to_string()))?;
        let mut tx = self.begin(now).await?;
        tx.execute(sqlx::query("UPDATE nodes SET tunnel_id = NULL WHERE tunnel_id = $1 AND id NOT IN (SELECT value FROM json_each($2))")
            .bind(holder)
            .bind(&ids)).await?;
        tx.execute(
            sqlx::query(
                "UPDATE nodes SET tunnel_id = $1 WHERE tunnel_id IS NOT $1 AND id IN (SELECT value FROM json_each($2))",
            )
            .bind(holder)
            .bind(&ids),
        )
        .await?;
        tx.commit().await
    }

    /// Forgets the tunnels of one holder, or of all (`None`), as at the start of the hub.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn clear_tunnels(&self, holder: Option<&str>, now: OffsetDateTime) -> Result<(), Fault> {
        let mut tx = self.begin(now).await?;
        tx.execute(
            sqlx::query(
                "UPDATE nodes SET tunnel_id = NULL WHERE tunnel_id IS NOT NULL AND ($1 IS NULL OR tunnel_id = $1)",
            )
            .bind(holder),
        )
        .await?;
        tx.commit().await
    }
}
