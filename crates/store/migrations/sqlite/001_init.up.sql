-- Kinds, one table each: envelope (id, name, revision, spec, created_at, updated_at), copies of parts of the spec, and
-- machine columns.
-- Times are RFC 3339 in UTC with milliseconds, so that text order is time order. JSON is TEXT.

CREATE TABLE counter (
  name  TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT;
INSERT INTO counter (name, value) VALUES ('revision', 0);

CREATE TABLE users (
  id            TEXT PRIMARY KEY,
  name          TEXT NOT NULL UNIQUE,
  revision      INTEGER NOT NULL,
  spec          TEXT NOT NULL,
  username      TEXT NOT NULL UNIQUE,
  roles         TEXT NOT NULL DEFAULT '[]',
  created_at    TEXT NOT NULL,
  updated_at    TEXT NOT NULL,
  password_hash TEXT
) STRICT;

CREATE TABLE roles (
  id              TEXT PRIMARY KEY,
  name            TEXT NOT NULL UNIQUE,
  revision        INTEGER NOT NULL,
  spec            TEXT NOT NULL,
  allowed_logins  TEXT,
  node_labels     TEXT,
  max_session_ttl TEXT,
  created_at      TEXT NOT NULL,
  updated_at      TEXT NOT NULL
) STRICT;

CREATE TABLE nodes (
  id                           TEXT PRIMARY KEY,
  name                         TEXT NOT NULL UNIQUE,
  revision                     INTEGER NOT NULL,
  spec                         TEXT NOT NULL,
  hostname                     TEXT,
  addr                         TEXT,
  labels                       TEXT,
  created_at                   TEXT NOT NULL,
  updated_at                   TEXT NOT NULL,
  last_heartbeat               TEXT,
  live_sessions                INTEGER NOT NULL DEFAULT 0,
  tunnel_id                    TEXT,
  host_cert_fingerprint        TEXT,
  host_cert_signer_fingerprint TEXT,
  host_cert_expires_at         TEXT
) STRICT;
CREATE INDEX nodes_hostname ON nodes (hostname);
CREATE INDEX nodes_tunnel ON nodes (tunnel_id);

CREATE TABLE tokens (
  id          TEXT PRIMARY KEY,
  name        TEXT NOT NULL UNIQUE,
  revision    INTEGER NOT NULL,
  spec        TEXT NOT NULL,
  roles       TEXT,
  expires_at  TEXT,
  created_at  TEXT NOT NULL,
  updated_at  TEXT NOT NULL,
  secret_hash TEXT UNIQUE,
  used_at     TEXT,
  used_by     TEXT
) STRICT;

CREATE TABLE locks (
  id          TEXT PRIMARY KEY,
  name        TEXT NOT NULL UNIQUE,
  revision    INTEGER NOT NULL,
  spec        TEXT NOT NULL,
  target_type TEXT,
  target      TEXT,
  expires_at  TEXT,
  created_at  TEXT NOT NULL,
  updated_at  TEXT NOT NULL
) STRICT;

CREATE TABLE configs (
  id         TEXT PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  revision   INTEGER NOT NULL,
  spec       TEXT NOT NULL,
  value      TEXT,
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL
) STRICT;

CREATE TABLE auth_connectors (
  id         TEXT PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  revision   INTEGER NOT NULL,
  spec       TEXT NOT NULL,
  type       TEXT,
  config     TEXT,
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL
) STRICT;

CREATE TABLE access_requests (
  id              TEXT PRIMARY KEY,
  name            TEXT NOT NULL UNIQUE,
  revision        INTEGER NOT NULL,
  spec            TEXT NOT NULL,
  "user"          TEXT,
  requested_roles TEXT,
  reason          TEXT,
  state           TEXT,
  resolved_by     TEXT,
  created_at      TEXT NOT NULL,
  updated_at      TEXT NOT NULL,
  resolved_at     TEXT,
  expires_at      TEXT
) STRICT;

-- Who refers to whom: written with the object that refers, asked before a delete.
CREATE TABLE refs (
  from_kind TEXT NOT NULL,
  from_name TEXT NOT NULL,
  to_kind   TEXT NOT NULL,
  to_name   TEXT NOT NULL,
  PRIMARY KEY (from_kind, from_name, to_kind, to_name)
) STRICT, WITHOUT ROWID;
CREATE INDEX refs_to ON refs (to_kind, to_name);

CREATE TABLE certificate_authorities (
  id           TEXT PRIMARY KEY,
  type         TEXT NOT NULL,
  slot         TEXT NOT NULL,
  public_key   TEXT NOT NULL,
  private_key  BLOB NOT NULL,
  cluster_name TEXT NOT NULL,
  phase        TEXT NOT NULL,
  x509_pem     TEXT,
  created_at   TEXT NOT NULL,
  UNIQUE (type, slot)
) STRICT;

CREATE TABLE sessions (
  id              TEXT PRIMARY KEY,
  type            TEXT NOT NULL,
  "user"          TEXT NOT NULL,
  node_id         TEXT NOT NULL,
  started_at      TEXT NOT NULL,
  ended_at        TEXT,
  recording_path  TEXT,
  login           TEXT NOT NULL,
  ended_reason    TEXT,
  "exit"          TEXT,
  recording_state TEXT NOT NULL,
  detail          TEXT NOT NULL
) STRICT;
CREATE INDEX sessions_started ON sessions (started_at, id);
CREATE INDEX sessions_user ON sessions ("user", started_at);
CREATE INDEX sessions_live ON sessions (node_id) WHERE ended_at IS NULL;

CREATE TABLE recordings (
  session_id  TEXT PRIMARY KEY,
  "user"      TEXT NOT NULL,
  started_at  TEXT NOT NULL,
  sealed_at   TEXT,
  chunks      INTEGER NOT NULL DEFAULT 0,
  bytes       INTEGER NOT NULL DEFAULT 0,
  duration_ms INTEGER NOT NULL DEFAULT 0,
  root        TEXT,
  complete    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX recordings_started ON recordings (started_at, session_id);

CREATE TABLE api_sessions (
  token_hash TEXT PRIMARY KEY,
  user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  created_at TEXT NOT NULL,
  expires_at TEXT NOT NULL
) STRICT;
CREATE INDEX api_sessions_user ON api_sessions (user_id);
CREATE INDEX api_sessions_expiry ON api_sessions (expires_at);

CREATE TABLE invites (
  token_hash TEXT PRIMARY KEY,
  user_id    TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  created_at TEXT NOT NULL,
  expires_at TEXT NOT NULL,
  used_at    TEXT
) STRICT;
CREATE INDEX invites_user ON invites (user_id);

-- Rows are only ever added. `metadata` is the canonical record; the other columns are copies that verification compares.
CREATE TABLE audit_events (
  seq        INTEGER PRIMARY KEY,
  id         TEXT NOT NULL UNIQUE,
  event_type TEXT NOT NULL,
  event_code TEXT NOT NULL,
  "user"     TEXT NOT NULL,
  resource   TEXT NOT NULL,
  action     TEXT NOT NULL,
  status     TEXT NOT NULL,
  session_id TEXT NOT NULL,
  metadata   TEXT NOT NULL,
  created_at TEXT NOT NULL,
  key_id     TEXT NOT NULL,
  mac        TEXT NOT NULL
) STRICT;
CREATE INDEX audit_events_type ON audit_events (event_type, seq);
CREATE INDEX audit_events_user ON audit_events ("user", seq);
CREATE INDEX audit_events_time ON audit_events (created_at, seq);
CREATE INDEX audit_events_session ON audit_events (session_id, seq) WHERE session_id <> '';

-- The end of the chain: seq and mac of the last record, under a mac of their own, so that rows missing at the end are
-- noticed and stay missing.
CREATE TABLE audit_head (
  one    INTEGER PRIMARY KEY CHECK (one = 1),
  seq    INTEGER NOT NULL,
  mac    TEXT NOT NULL,
  key_id TEXT NOT NULL,
  seal   TEXT NOT NULL
) STRICT;
