//! Objects of kinds: one implementation for all of them, driven by [`Kind`]. The table has the kind's plural as its name.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use mezite_core::kind::{Kind, Node, NodeSpec, Reference, Token, User};
use mezite_core::{Fault, Invalid, when};
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqliteConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::page::{Listed, Page};
use crate::watch::Change;
use crate::{Store, Tx, fault};

/// What a write assumes about the object it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is none yet.
    Absent,
    /// It has this revision.
    Revision(u64),
    /// Nothing: create or replace.
    Any,
}

impl Expect {
    /// From the wire: absent means [`Expect::Any`], 0 means [`Expect::Absent`].
    pub fn from_wire(expected_revision: Option<u64>) -> Self {
        match expected_revision {
            None => Self::Any,
            Some(0) => Self::Absent,
            Some(revision) => Self::Revision(revision),
        }
    }
}

/// An object as it is stored.
pub struct Object<K: Kind> {
    /// Stable id: a UUID, kept over updates, never used again. A node's id is its `node_id`.
    pub id: String,
    /// Its name, unique in the kind.
    pub name: String,
    /// Grows with each change, over all kinds.
    pub revision: u64,
    /// The spec, or why the stored row cannot be read. Reading is lenient so that one bad row does not hide the others;
    /// whoever decides by the spec must treat an error as a refusal.
    pub spec: Result<K::Spec, String>,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When a person or a program last wrote the spec.
    pub updated_at: OffsetDateTime,
    /// What machines wrote beside the spec; `null` for kinds without machine columns.
    pub status: Value,
}

impl<K: Kind> Object<K> {
    /// The spec, for callers that cannot go on without.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the stored row cannot be read.
    pub fn spec(&self) -> Result<&K::Spec, Fault> {
        let unreadable = |e: &String| Fault::Unavailable(format!("{} {} cannot be read: {e}", K::KIND, self.name));
        self.spec.as_ref().map_err(unreadable)
    }
}

impl<K: Kind> Clone for Object<K> {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            name: self.name.clone(),
            revision: self.revision,
            spec: self.spec.clone(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            status: self.status.clone(),
        }
    }
}

impl<K: Kind> fmt::Debug for Object<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(K::KIND)
            .field("name", &self.name)
            .field("revision", &self.revision)
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// The object of this name.
    ///
    /// # Errors
    /// [`Fault::NotFound`] when there is none.
    pub async fn get<K: Kind>(&self, name: &str) -> Result<Object<K>, Fault> {
        find::<K>(&mut *self.read().await?, name).await?.ok_or_else(|| not_found::<K>(name))
    }

    /// The object of this name, if there is one.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn find<K: Kind>(&self, name: &str) -> Result<Option<Object<K>>, Fault> {
        find::<K>(&mut *self.read().await?, name).await
    }

    /// The object with this id, if there is one.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn find_by_id<K: Kind>(&self, id: &str) -> Result<Option<Object<K>>, Fault> {
        let sql = format!("{} WHERE id = $1", select::<K>());
        let row = sqlx::query(AssertSqlSafe(sql)).bind(id).fetch_optional(&mut *self.read().await?).await;
        row.map_err(fault::db)?.as_ref().map(decode::<K>).transpose()
    }

    /// Objects in the order of their names, one page at a time.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read. A row that cannot be read is an entry with its error.
    pub async fn list<K: Kind>(&self, page: &Page) -> Result<Listed<Object<K>>, Fault> {
        let sql = format!("{} WHERE name > $1 ORDER BY name LIMIT $2", select::<K>());
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(&page.token)
            .bind(page.limit() + 1)
            .fetch_all(&mut *self.read().await?)
            .await
            .map_err(fault::db)?;
        let objects = rows.iter().map(decode::<K>).collect::<Result<Vec<_>, _>>()?;
        Ok(Listed::cut(objects, page, |last| last.name.clone()))
    }

    /// All objects of a kind that is small by nature (roles, locks) or needed whole (nodes, for routing).
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn all<K: Kind>(&self) -> Result<Vec<Object<K>>, Fault> {
        let sql = format!("{} ORDER BY name", select::<K>());
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *self.read().await?).await.map_err(fault::db)?;
        rows.iter().map(decode::<K>).collect()
    }
}

impl Tx {
    /// The object of this name as this transaction sees it.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn find<K: Kind>(&mut self, name: &str) -> Result<Option<Object<K>>, Fault> {
        find::<K>(self.conn(), name).await
    }

    /// Creates or replaces an object: validates, compares the revision, checks that what it refers to exists.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for a spec that breaks a rule or refers to nothing; [`Fault::Conflict`] when `expect` does not
    /// hold; [`Fault::NotFound`] when a revision is expected and there is no object.
    pub async fn put<K: Kind>(&mut self, name: &str, spec: &K::Spec, expect: Expect) -> Result<Object<K>, Fault> {
        K::validate(name, spec)?;
        let json = serde_json::to_string(spec).map_err(|e| Fault::Bug(format!("{} {name}: {e}", K::KIND)))?;
        let held = self.held::<K>(name).await?;
        check::<K>(name, expect, held.as_ref().map(|(_, revision)| *revision))?;
        let references = K::references(spec);
        self.refer(K::KIND, name, &references).await?;

        let revision = self.next_revision().await?;
        let sql = if held.is_some() { update::<K>() } else { insert::<K>() };
        let id = match (held, own_id::<K>(spec)) {
            (Some((held, _)), Some(own)) if held != own => {
                let taken = format!("{} {name} belongs to another machine ({held}); delete it first", K::KIND);
                return Err(Fault::Conflict(taken));
            }
            (Some((held, _)), _) => held,
            (None, own) => own.unwrap_or_else(|| Uuid::new_v4().to_string()),
        };
        let mut query =
            sqlx::query(AssertSqlSafe(sql)).bind(&id).bind(name).bind(revision).bind(&json).bind(self.stamp());
        for value in K::columns(name, spec) {
            query = query.bind(column_text(value));
        }
        query.execute(self.conn()).await.map_err(fault::db)?;

        let revision = revision.unsigned_abs();
        self.announce(Change { kind: K::KIND, name: name.to_owned(), revision, json: Some(Arc::from(json)) });
        self.find::<K>(name).await?.ok_or_else(|| not_found::<K>(name))
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// [`Fault::NotFound`] when there is none, [`Fault::Conflict`] when the revision differs or something refers to it; the
    /// message names what does.
    pub async fn delete<K: Kind>(&mut self, name: &str, expect: Expect) -> Result<(), Fault> {
        let (id, held) = self.held::<K>(name).await?.ok_or_else(|| not_found::<K>(name))?;
        check::<K>(name, expect, Some(held))?;
        self.refuse_if_referred(K::KIND, name).await?;
        self.refer(K::KIND, name, &[]).await?;
        let revision = self.next_revision().await?.unsigned_abs();
        sqlx::query(AssertSqlSafe(format!("DELETE FROM {} WHERE id = $1", K::PLURAL)))
            .bind(id)
            .execute(self.conn())
            .await
            .map_err(fault::db)?;
        self.announce(Change { kind: K::KIND, name: name.to_owned(), revision, json: None });
        Ok(())
    }

    async fn held<K: Kind>(&mut self, name: &str) -> Result<Option<(String, u64)>, Fault> {
        let sql = format!("SELECT id, revision FROM {} WHERE name = $1", K::PLURAL);
        let row: Option<(String, i64)> =
            sqlx::query_as(AssertSqlSafe(sql)).bind(name).fetch_optional(self.conn()).await.map_err(fault::db)?;
        Ok(row.map(|(id, revision)| (id, revision.unsigned_abs())))
    }

    /// Replaces what `kind` `name` refers to.
    async fn refer(&mut self, kind: &str, name: &str, to: &[Reference]) -> Result<(), Fault> {
        sqlx::query("DELETE FROM refs WHERE from_kind = $1 AND from_name = $2")
            .bind(kind)
            .bind(name)
            .execute(self.conn())
            .await
            .map_err(fault::db)?;
        for target in to {
            if !self.exists(target).await? {
                let missing = format!("{} {} does not exist", target.kind, target.name);
                return Err(Invalid::new(format!("{}s", target.kind), missing).into());
            }
            sqlx::query("INSERT INTO refs (from_kind, from_name, to_kind, to_name) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING")
                .bind(kind)
                .bind(name)
                .bind(target.kind)
                .bind(&target.name)
                .execute(self.conn())
                .await
                .map_err(fault::db)?;
        }
        Ok(())
    }

    async fn exists(&mut self, target: &Reference) -> Result<bool, Fault> {
        // `kind` is a constant of core; every plural is the kind and an s.
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {}s WHERE name = $1)", target.kind);
        sqlx::query_scalar(AssertSqlSafe(sql)).bind(&target.name).fetch_one(self.conn()).await.map_err(fault::db)
    }

    async fn refuse_if_referred(&mut self, kind: &str, name: &str) -> Result<(), Fault> {
        const SHOWN: usize = 5;
        let users: Vec<(String, String)> = sqlx::query_as(
            "SELECT from_kind, from_name FROM refs
             WHERE to_kind = $1 AND to_name = $2 AND NOT (from_kind = $1 AND from_name = $2) ORDER BY 1, 2",
        )
        .bind(kind)
        .bind(name)
        .fetch_all(self.conn())
        .await
        .map_err(fault::db)?;
        if users.is_empty() {
            return Ok(());
        }
        let mut named: Vec<String> = users.iter().take(SHOWN).map(|(kind, name)| format!("{kind} {name}")).collect();
        if users.len() > SHOWN {
            named.push(format!("{} more", users.len() - SHOWN));
        }
        Err(Fault::Conflict(format!("{kind} {name} is in use by {}", named.join(", "))))
    }
}

async fn find<K: Kind>(conn: &mut SqliteConnection, name: &str) -> Result<Option<Object<K>>, Fault> {
    let sql = format!("{} WHERE name = $1", select::<K>());
    let row = sqlx::query(AssertSqlSafe(sql)).bind(name).fetch_optional(conn).await.map_err(fault::db)?;
    row.as_ref().map(decode::<K>).transpose()
}

fn not_found<K: Kind>(name: &str) -> Fault {
    Fault::NotFound(format!("{} {name} does not exist", K::KIND))
}

fn check<K: Kind>(name: &str, expect: Expect, held: Option<u64>) -> Result<(), Fault> {
    match (expect, held) {
        (Expect::Absent, Some(_)) => Err(Fault::Conflict(format!("{} {name} exists already", K::KIND))),
        (Expect::Revision(_), None) => Err(not_found::<K>(name)),
        (Expect::Revision(expected), Some(held)) if expected != held => Err(Fault::Conflict(format!(
            "{} {name} was changed by somebody else (revision {held}, expected {expected}); read it again",
            K::KIND
        ))),
        _ => Ok(()),
    }
}

/// A node brings its id in the spec and keeps it; everything else is given one.
fn own_id<K: Kind>(spec: &K::Spec) -> Option<String> {
    (spec as &dyn Any).downcast_ref::<NodeSpec>().map(|node| node.node_id.clone())
}

fn column_text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

fn insert<K: Kind>() -> String {
    let columns: String = K::COLUMNS.iter().map(|column| format!(", {column}")).collect();
    let values: String = (0..K::COLUMNS.len()).map(|i| format!(", ${}", i + 6)).collect();
    format!(
        "INSERT INTO {} (id, name, revision, spec, created_at, updated_at{columns}) VALUES ($1, $2, $3, $4, $5, $5{values})",
        K::PLURAL
    )
}

fn update<K: Kind>() -> String {
    let columns: String = K::COLUMNS.iter().enumerate().map(|(i, column)| format!(", {column} = ${}", i + 6)).collect();
    format!("UPDATE {} SET name = $2, revision = $3, spec = $4, updated_at = $5{columns} WHERE id = $1", K::PLURAL)
}

fn select<K: Kind>() -> String {
    let status = match K::KIND {
        Node::KIND => {
            "json_object('online', json(iif(tunnel_id IS NULL, 'false', 'true')), 'tunnel_id', tunnel_id, \
             'last_heartbeat', last_heartbeat, 'live_sessions', live_sessions, \
             'host_cert_fingerprint', host_cert_fingerprint, \
             'host_cert_signer_fingerprint', host_cert_signer_fingerprint, 'host_cert_expires_at', host_cert_expires_at)"
        }
        User::KIND => "json_object('has_password', json(iif(password_hash IS NULL, 'false', 'true')))",
        Token::KIND => "json_object('used_at', used_at, 'used_by', used_by)",
        _ => "'null'",
    };
    format!("SELECT id, name, revision, spec, created_at, updated_at, {status} FROM {}", K::PLURAL)
}

/// Only a row without a readable envelope is an error; what else is wrong goes into the entry.
fn decode<K: Kind>(row: &SqliteRow) -> Result<Object<K>, Fault> {
    let column = |index: usize| row.try_get::<String, _>(index).map_err(fault::db);
    let at = |index: usize| column(index).map(|text| when::parse(&text).unwrap_or(OffsetDateTime::UNIX_EPOCH));
    let revision: i64 = row.try_get(2).map_err(fault::db)?;
    Ok(Object {
        id: column(0)?,
        name: column(1)?,
        revision: revision.unsigned_abs(),
        spec: serde_json::from_str(&column(3)?).map_err(|e| e.to_string()),
        created_at: at(4)?,
        updated_at: at(5)?,
        status: serde_json::from_str(&column(6)?).unwrap_or_default(),
    })
}
