-- Signed checkpoints of the audit log, one JSON object each. Rows are only ever added.
CREATE TABLE audit_checkpoints (
  seq    INTEGER PRIMARY KEY,
  signed TEXT NOT NULL
) STRICT;
