//! From what the database or the file system says to a [`Fault`].

use std::fmt;
use std::io;

use mezite_core::Fault;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, Type};

const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READ_ONLY: i32 = 8;
const IO: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANNOT_OPEN: i32 = 14;
const CONSTRAINT: i32 = 19;
const NOT_A_DATABASE: i32 = 26;

/// The fault behind a failed statement. Result codes: <https://www.sqlite.org/rescode.html>; the low byte is the class.
pub(crate) fn db(error: sqlx::Error) -> Fault {
    let said = match &error {
        sqlx::Error::Database(said) => said,
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => {
            return Fault::Unavailable(format!("database: {error}"));
        }
        _ => return Fault::Bug(format!("database: {error}")),
    };
    let code = said.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or_default();
    let message = said.message();
    match code & 0xff {
        CONSTRAINT if said.is_unique_violation() => Fault::Conflict("exists already".into()),
        CONSTRAINT => Fault::Conflict(format!("database: {message}")),
        FULL => Fault::Unavailable(format!("database: {message}; free space on the volume that holds it")),
        CANNOT_OPEN | READ_ONLY => Fault::Unavailable(format!(
            "database: {message}; check that its directory exists and is writable by the user the hub runs as"
        )),
        CORRUPT | NOT_A_DATABASE => Fault::Unavailable(format!("database: {message}; restore it from a backup")),
        BUSY | LOCKED | IO => Fault::Unavailable(format!("database: {message}")),
        _ => Fault::Bug(format!("database: {message}")),
    }
}

/// The fault behind a failed file operation: `verb` and `file` say which.
pub(crate) fn io(verb: &str, file: impl fmt::Display, error: &io::Error) -> Fault {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free space on the volume",
        _ => "",
    };
    Fault::Unavailable(format!("cannot {verb} {file}: {error}{hint}"))
}

/// A column of a row.
pub(crate) fn column<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(row: &'r SqliteRow, index: usize) -> Result<T, Fault> {
    row.try_get(index).map_err(db)
}
