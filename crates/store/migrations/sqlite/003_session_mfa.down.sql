DROP TRIGGER mfa_proofs_end_with_lock;
DROP TABLE mfa_proofs;
