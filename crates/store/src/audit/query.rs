//! Searching the log.

use mezite_core::{Fault, Invalid, when};
use sqlx::{QueryBuilder, Sqlite};
use time::OffsetDateTime;

use crate::Store;
use crate::fault::column;
use crate::page::{Listed, Page};

/// Which events; every field narrows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only these types; empty for all.
    pub types: Vec<String>,
    /// Only those of this user.
    pub user: Option<String>,
    /// Only those at or after this moment.
    pub since: Option<OffsetDateTime>,
    /// Only those before this moment.
    pub until: Option<OffsetDateTime>,
    /// Only those of this session.
    pub session_id: Option<String>,
    /// Only the one with this id.
    pub id: Option<String>,
}

/// A record as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Number in the chain.
    pub seq: u64,
    /// The canonical record, unchanged.
    pub json: String,
}

impl Store {
    /// Events, newest first in the order of the chain, one page at a time. A clock that went backwards does not disturb the
    /// order.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for a page token that is not ours.
    pub async fn audit_events(&self, filter: &AuditFilter, page: &Page) -> Result<Listed<StoredEvent>, Fault> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT seq, metadata FROM audit_events WHERE true");
        if !filter.types.is_empty() {
            let types = serde_json::to_string(&filter.types).map_err(|e| Fault::Bug(e.to_string()))?;
            query.push(" AND event_type IN (SELECT value FROM json_each(").push_bind(types).push("))");
        }
        if let Some(user) = &filter.user {
            query.push(" AND \"user\" = ").push_bind(user);
        }
        if let Some(session_id) = &filter.session_id {
            query.push(" AND session_id <> '' AND session_id = ").push_bind(session_id);
        }
        if let Some(id) = &filter.id {
            query.push(" AND id = ").push_bind(id);
        }
        if let Some(since) = filter.since {
            query.push(" AND created_at >= ").push_bind(when::millis(since));
        }
        if let Some(until) = filter.until {
            query.push(" AND created_at < ").push_bind(when::millis(until));
        }
        if !page.token.is_empty() {
            let before: i64 =
                page.token.parse().map_err(|_| Invalid::new("page_token", "is not a token of this list"))?;
            query.push(" AND seq < ").push_bind(before);
        }
        query.push(" ORDER BY seq DESC LIMIT ").push_bind(page.limit() + 1);
        let rows = self.rows(query.build()).await?;
        let events = rows
            .iter()
            .map(|row| Ok(StoredEvent { seq: column::<i64>(row, 0)?.unsigned_abs(), json: column(row, 1)? }));
        let events = events.collect::<Result<Vec<_>, Fault>>()?;
        Ok(Listed::cut(events, page, |last| last.seq.to_string()))
    }
}
