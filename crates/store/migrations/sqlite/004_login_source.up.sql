-- Where a user logged in from, and whether the certificates of the login are pinned to that address.
ALTER TABLE api_sessions ADD COLUMN source_ip TEXT;
ALTER TABLE api_sessions ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
