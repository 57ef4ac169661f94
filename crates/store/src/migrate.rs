//! Schema versions: `migrations/sqlite/NNN_description.{up,down}.sql`, in the program itself.
//!
//! Each step runs in one transaction together with its line in `schema_migrations`, so a crash leaves the old version or
//! the new one. A database that is newer than the program is refused: this program could not keep its promises.

use mezite_core::Fault;
use sqlx::{Connection, Row, SqliteConnection};

use crate::fault;

struct Migration {
    version: i64,
    description: &'static str,
    up: &'static str,
    down: &'static str,
}

macro_rules! migrations {
    ($($version:literal $description:literal $file:literal;)*) => {
        const ALL: &[Migration] = &[$(Migration {
            version: $version,
            description: $description,
            up: include_str!(concat!("../migrations/sqlite/", $file, ".up.sql")),
            down: include_str!(concat!("../migrations/sqlite/", $file, ".down.sql")),
        }),*];
        #[cfg(test)]
        const FILES: &[&str] = &[$($file),*];
    };
}

migrations! {
    1 "init" "001_init";
    2 "totp" "002_totp";
    3 "session_mfa" "003_session_mfa";
    4 "login_source" "004_login_source";
    5 "audit_checkpoints" "005_audit_checkpoints";
    6 "password" "006_password";
}

/// One known schema version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The number in the file name.
    pub version: i64,
    /// The words in the file name.
    pub description: String,
    /// When it was applied (RFC 3339); `None` when it is still to come.
    pub applied_at: Option<String>,
}

/// Every version this program knows and whether the database has it.
pub(crate) async fn plan(conn: &mut SqliteConnection) -> Result<Vec<Step>, Fault> {
    let applied = applied(conn).await?;
    let at = |version| applied.iter().find(|(v, _)| *v == version).map(|(_, at)| at.clone());
    Ok(ALL
        .iter()
        .map(|m| Step { version: m.version, description: m.description.into(), applied_at: at(m.version) })
        .collect())
}

/// Applies what is missing; answers how many steps that were.
pub(crate) async fn up(conn: &mut SqliteConnection) -> Result<usize, Fault> {
    let applied = applied(conn).await?;
    let mut done = 0;
    for step in ALL.iter().filter(|m| !applied.iter().any(|(v, _)| *v == m.version)) {
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(fault::db)?;
        // A second process may have been faster.
        let taken =
            sqlx::query("INSERT INTO schema_migrations (version, description) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                .bind(step.version)
                .bind(step.description)
                .execute(&mut *tx)
                .await
                .map_err(fault::db)?;
        if taken.rows_affected() == 1 {
            sqlx::raw_sql(step.up).execute(&mut *tx).await.map_err(|e| failed(step, "up", e))?;
            done += 1;
        }
        tx.commit().await.map_err(fault::db)?;
    }
    Ok(done)
}

/// Undoes the newest `count` steps; answers how many were undone. What only the newer schema can hold is lost.
pub(crate) async fn down(conn: &mut SqliteConnection, count: usize) -> Result<usize, Fault> {
    let applied = applied(conn).await?;
    let newest_first = ALL.iter().rev().filter(|m| applied.iter().any(|(v, _)| *v == m.version));
    let mut done = 0;
    for step in newest_first.take(count) {
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(fault::db)?;
        sqlx::raw_sql(step.down).execute(&mut *tx).await.map_err(|e| failed(step, "down", e))?;
        sqlx::query("DELETE FROM schema_migrations WHERE version = $1")
            .bind(step.version)
            .execute(&mut *tx)
            .await
            .map_err(fault::db)?;
        tx.commit().await.map_err(fault::db)?;
        done += 1;
    }
    Ok(done)
}

fn failed(step: &Migration, direction: &str, error: sqlx::Error) -> Fault {
    match fault::db(error) {
        Fault::Unavailable(why) => Fault::Unavailable(why),
        other => Fault::Bug(format!("migration {:03}_{} {direction}: {other}", step.version, step.description)),
    }
}

async fn applied(conn: &mut SqliteConnection) -> Result<Vec<(i64, String)>, Fault> {
    const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
        version     INTEGER PRIMARY KEY,
        description TEXT NOT NULL,
        applied_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
    ) STRICT";
    sqlx::raw_sql(TABLE).execute(&mut *conn).await.map_err(fault::db)?;
    let rows = sqlx::query("SELECT version, applied_at FROM schema_migrations ORDER BY version")
        .fetch_all(conn)
        .await
        .map_err(fault::db)?;
    let mut applied = Vec::with_capacity(rows.len());
    for row in rows {
        let version: i64 = row.try_get(0).map_err(fault::db)?;
        if !ALL.iter().any(|m| m.version == version) {
            let known = ALL.last().map_or(0, |m| m.version);
            return Err(Fault::Conflict(format!(
                "the database has schema version {version}, this program knows versions up to {known}; \
                 start a newer mezhub, or undo the newer versions with the program that applied them"
            )));
        }
        applied.push((version, row.try_get(1).map_err(fault::db)?));
    }
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_file_is_in_the_program() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite");
        let mut on_disk: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        on_disk.sort();
        let mut known: Vec<String> =
            FILES.iter().flat_map(|f| [format!("{f}.down.sql"), format!("{f}.up.sql")]).collect();
        known.sort();
        assert_eq!(on_disk, known);
        for (file, m) in FILES.iter().zip(ALL) {
            assert_eq!(*file, format!("{:03}_{}", m.version, m.description));
        }
    }
}
