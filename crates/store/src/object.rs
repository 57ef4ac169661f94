//! Objects of kinds: one implementation for all of them, driven by [`Kind`]. The table has the kind's plural as its name.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use mezite_core::kind::{Kind, Node, NodeSpec, Reference, Token, User};
use mezite_core::{Fault, Invalid, when};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::fault::column;
use crate::page::{Listed, Page};
use crate::watch::Change;
use crate::{Store, Tx};

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
        self.find::<K>(name).await?.ok_or_else(|| not_found::<K>(name))
    }

    /// The object of this name, if there is one.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn find<K: Kind>(&self, name: &str) -> Result<Option<Object<K>>, Fault> {
        let row = self.row(sqlx::query(AssertSqlSafe(by_name::<K>())).bind(name)).await?;
        row.as_ref().map(decode::<K>).transpose()
    }

    /// The object with this id, if there is one.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn find_by_id<K: Kind>(&self, id: &str) -> Result<Option<Object<K>>, Fault> {
        let sql = format!("{} WHERE id = $1", select::<K>());
        let row = self.row(sqlx::query(AssertSqlSafe(sql)).bind(id)).await?;
        row.as_ref().map(decode::<K>).transpose()
    }

    /// Objects in the order of their names, one page at a time.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read. A row that cannot be read is an entry with its error.
    pub async fn list<K: Kind>(&self, page: &Page) -> Result<Listed<Object<K>>, Fault> {
        let sql = format!("{} WHERE name > $1 ORDER BY name LIMIT $2", select::<K>());
        let rows = self.rows(sqlx::query(AssertSqlSafe(sql)).bind(&page.token).bind(page.limit() + 1)).await?;
        let objects = rows.iter().map(decode::<K>).collect::<Result<Vec<_>, _>>()?;
        Ok(Listed::cut(objects, page, |last| last.name.clone()))
    }

    /// All objects of a kind that is small by nature (roles, locks) or needed whole (nodes, for routing).
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn all<K: Kind>(&self) -> Result<Vec<Object<K>>, Fault> {
        let sql = format!("{} ORDER BY name", select::<K>());
        let rows = self.rows(sqlx::query(AssertSqlSafe(sql))).await?;
        rows.iter().map(decode::<K>).collect()
    }
}

impl Tx {
    /// The object of this name as this transaction sees it.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when the database cannot be read.
    pub async fn find<K: Kind>(&mut self, name: &str) -> Result<Option<Object<K>>, Fault> {
        let row = self.row(sqlx::query(AssertSqlSafe(by_name::<K>())).bind(name)).await?;
        row.as_ref().map(decode::<K>).transpose()
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
        let mut query = sqlx::query(AssertSqlSafe(sql))
            .bind(&id)
            .bind(name)
            .bind(revision.cast_signed())
            .bind(&json)
            .bind(self.stamp());
        for value in K::columns(name, spec) {
            query = query.bind(column_text(value));
        }
        self.execute(query).await?;

        self.announce(Change { kind: K::KIND, name: name.to_owned(), revision, json: Some(Arc::from(json)) });
        self.find::<K>(name).await?.ok_or_else(|| not_found::<K>(name))
    }

    /// Deletes an object; answers the revision of the change.
    ///
    /// # Errors
    /// [`Fault::NotFound`] when there is none, [`Fault::Conflict`] when the revision differs or something refers to it; the
    /// message names what does.
    pub async fn delete<K: Kind>(&mut self, name: &str, expect: Expect) -> Result<u64, Fault> {
        let (id, held) = self.held::<K>(name).await?.ok_or_else(|| not_found::<K>(name))?;
        check::<K>(name, expect, Some(held))?;
        self.refuse_if_referred(K::KIND, name).await?;
        self.refer(K::KIND, name, &[]).await?;
        let revision = self.next_revision().await?;
        self.execute(sqlx::query(AssertSqlSafe(format!("DELETE FROM {} WHERE id = $1", K::PLURAL))).bind(id)).await?;
        self.announce(Change { kind: K::KIND, name: name.to_owned(), revision, json: None });
        Ok(revision)
    }

    async fn held<K: Kind>(&mut self, name: &str) -> Result<Option<(String, u64)>, Fault> {
        let sql = format!("SELECT id, revision FROM {} WHERE name = $1", K::PLURAL);
        let row = self.row(sqlx::query(AssertSqlSafe(sql)).bind(name)).await?;
        row.map(|row| Ok((column(&row, 0)?, column::<i64>(&row, 1)?.unsigned_abs()))).transpose()
    }

    /// Replaces what `kind` `name` refers to.
    async fn refer(&mut self, kind: &str, name: &str, to: &[Reference]) -> Result<(), Fault> {
        self.execute(sqlx::query("DELETE FROM refs WHERE from_kind = $1 AND from_name = $2").bind(kind).bind(name))
            .await?;
        for target in to {
            if !self.exists(target).await? {
                let missing = format!("{} {} does not exist", target.kind, target.name);
                return Err(Invalid::new(format!("{}s", target.kind), missing).into());
            }
            self.execute(sqlx::query("INSERT INTO refs (from_kind, from_name, to_kind, to_name) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING")
                .bind(kind)
                .bind(name)
                .bind(target.kind)
                .bind(&target.name)).await?;
        }
        Ok(())
    }

    async fn exists(&mut self, target: &Reference) -> Result<bool, Fault> {
        // `kind` is a constant of core; every plural is the kind and an s.
        let sql = format!("SELECT 1 FROM {}s WHERE name = $1", target.kind);
        Ok(self.row(sqlx::query(AssertSqlSafe(sql)).bind(&target.name)).await?.is_some())
    }

    async fn refuse_if_referred(&mut self, kind: &str, name: &str) -> Result<(), Fault> {
        const SHOWN: usize = 5;
        let users = self
            .rows(
                sqlx::query(
                    "SELECT from_kind, from_name FROM refs
                     WHERE to_kind = $1 AND to_name = $2 AND NOT (from_kind = $1 AND from_name = $2) ORDER BY 1, 2",
                )
                .bind(kind)
                .bind(name),
            )
            .await?;
        if users.is_empty() {
            return Ok(());
        }
        let name_of =
            |row: &SqliteRow| Ok::<_, Fault>(format!("{} {}", column::<String>(row, 0)?, column::<String>(row, 1)?));
        let mut named = users.iter().take(SHOWN).map(name_of).collect::<Result<Vec<_>, _>>()?;
        if users.len() > SHOWN {
            named.push(format!("{} more", users.len() - SHOWN));
        }
        Err(Fault::Conflict(format!("{kind} {name} is in use by {}", named.join(", "))))
    }
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

fn by_name<K: Kind>() -> String {
    format!("{} WHERE name = $1", select::<K>())
}

fn select<K: Kind>() -> String {
    let status = match K::KIND {
        Node::KIND => {
            "json_object('online', json(iif(tunnel_id IS NULL, 'false', 'true')), 'tunnel_id', tunnel_id, \
             'last_heartbeat', last_heartbeat, 'live_sessions', live_sessions, \
             'host_cert_fingerprint', host_cert_fingerprint, \
             'host_cert_signer_fingerprint', host_cert_signer_fingerprint, 'host_cert_expires_at', host_cert_expires_at)"
        }
        User::KIND => {
            "json_object('has_password', json(iif(password_hash IS NULL, 'false', 'true')), \
             'certificates_from', certificates_from)"
        }
        Token::KIND => "json_object('used_at', used_at, 'used_by', used_by)",
        _ => "'null'",
    };
    format!("SELECT id, name, revision, spec, created_at, updated_at, {status} FROM {}", K::PLURAL)
}

/// Only a row without a readable envelope is an error; what else is wrong goes into the entry.
fn decode<K: Kind>(row: &SqliteRow) -> Result<Object<K>, Fault> {
    let at = |index| column::<String>(row, index).map(|at| when::parse(&at).unwrap_or(OffsetDateTime::UNIX_EPOCH));
    Ok(Object {
        id: column(row, 0)?,
        name: column(row, 1)?,
        revision: column::<i64>(row, 2)?.unsigned_abs(),
        spec: serde_json::from_str(&column::<String>(row, 3)?).map_err(|e| e.to_string()),
        created_at: at(4)?,
        updated_at: at(5)?,
        status: serde_json::from_str(&column::<String>(row, 6)?).unwrap_or_default(),
    })
}
