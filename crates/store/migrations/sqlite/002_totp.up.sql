-- Second factors of users. The secret is sealed; `last_step` is the newest step whose code was used, for whatever.
-- A factor without `confirmed_at` is being enrolled and counts for nothing.
CREATE TABLE mfa_devices (
  id           TEXT PRIMARY KEY,
  user_id      TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  type         TEXT NOT NULL,
  name         TEXT NOT NULL,
  secret       BLOB NOT NULL,
  last_step    INTEGER NOT NULL DEFAULT 0,
  created_at   TEXT NOT NULL,
  confirmed_at TEXT,
  last_used_at TEXT
) STRICT;
CREATE INDEX mfa_devices_user ON mfa_devices (user_id);
CREATE UNIQUE INDEX mfa_devices_name ON mfa_devices (user_id, name) WHERE confirmed_at IS NOT NULL;
CREATE UNIQUE INDEX mfa_devices_pending ON mfa_devices (user_id) WHERE confirmed_at IS NULL;
