//! Certificate authorities. The private key arrives sealed; this crate never sees it open (C07).

use std::fmt;

use mezite_core::{Fault, when};
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;

use crate::fault::column;
use crate::{Store, Tx};

/// One key pair of an authority.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// UUID; the seal of the private key is bound to it and to `kind`.
    pub id: String,
    /// `user` or `host`.
    pub kind: String,
    /// `active` signs, `standby` is trusted beside it during a rotation; one of each per kind.
    pub slot: String,
    /// OpenSSH public key line.
    pub public_key: String,
    /// The sealed private key.
    pub private_key: Vec<u8>,
    /// Name of the cluster.
    pub cluster_name: String,
    /// Phase of the rotation, the same in all rows of a kind.
    pub phase: String,
    /// Certificate of the same key for TLS, if the kind has one.
    pub x509_pem: Option<String>,
    /// When the key was made.
    pub created_at: OffsetDateTime,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("slot", &self.slot)
            .field("public_key", &self.public_key)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// All authorities, ordered by kind and slot.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read or a row makes no sense.
    pub async fn authorities(&self) -> Result<Vec<Authority>, Fault> {
        let rows = self
            .rows(sqlx::query(
                "SELECT id, type, slot, public_key, private_key, cluster_name, phase, x509_pem, created_at
             FROM certificate_authorities ORDER BY type, slot",
            ))
            .await?;
        rows.iter().map(decode).collect()
    }
}

impl Tx {
    /// Writes an authority: a new one, or a new slot, phase, seal or certificate of the one with this id. Key and kind of
    /// an authority never change.
    ///
    /// # Errors
    /// [`Fault::Conflict`] when the slot is taken, which is also how two hubs that start at once are told apart.
    pub async fn put_authority(&mut self, authority: &Authority) -> Result<(), Fault> {
        self.execute(
            sqlx::query(
                "INSERT INTO certificate_authorities
               (id, type, slot, public_key, private_key, cluster_name, phase, x509_pem, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (id) DO UPDATE SET slot = $3, private_key = $5, phase = $7, x509_pem = $8",
            )
            .bind(&authority.id)
            .bind(&authority.kind)
            .bind(&authority.slot)
            .bind(&authority.public_key)
            .bind(&authority.private_key)
            .bind(&authority.cluster_name)
            .bind(&authority.phase)
            .bind(&authority.x509_pem)
            .bind(when::millis(authority.created_at)),
        )
        .await?;
        Ok(())
    }

    /// Removes an authority; answers whether there was one.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be written.
    pub async fn delete_authority(&mut self, id: &str) -> Result<bool, Fault> {
        let done = self.execute(sqlx::query("DELETE FROM certificate_authorities WHERE id = $1").bind(id)).await?;
        Ok(done > 0)
    }
}

fn decode(row: &SqliteRow) -> Result<Authority, Fault> {
    Ok(Authority {
        id: column(row, 0)?,
        kind: column(row, 1)?,
        slot: column(row, 2)?,
        public_key: column(row, 3)?,
        private_key: column(row, 4)?,
        cluster_name: column(row, 5)?,
        phase: column(row, 6)?,
        x509_pem: column(row, 7)?,
        created_at: when::parse(&column::<String>(row, 8)?)?,
    })
}
