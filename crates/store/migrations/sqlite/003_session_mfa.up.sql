-- Second factors proven for a session that may serve further ones: of the same factor, from the same address, by the same key.
CREATE TABLE mfa_proofs (
  device_id    TEXT NOT NULL REFERENCES mfa_devices (id) ON DELETE CASCADE,
  user_key     TEXT NOT NULL,
  source       TEXT NOT NULL,
  proven_at    TEXT NOT NULL,
  serves_until TEXT NOT NULL,
  PRIMARY KEY (device_id, user_key, source)
) STRICT, WITHOUT ROWID;
CREATE INDEX mfa_proofs_end ON mfa_proofs (serves_until);

-- Whoever sets a lock on a user, or on a factor (USER/NAME), and however: what was proven does not outlive it.
CREATE TRIGGER mfa_proofs_end_with_lock AFTER INSERT ON locks WHEN NEW.target_type IN ('user', 'mfa_device')
BEGIN
  DELETE FROM mfa_proofs WHERE device_id IN
    (SELECT d.id FROM mfa_devices d JOIN users u ON u.id = d.user_id
     WHERE NEW.target IN (u.name, u.name || '/' || d.name));
END;
