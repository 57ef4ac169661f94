ALTER TABLE api_sessions DROP COLUMN pinned;
ALTER TABLE api_sessions DROP COLUMN source_ip;
