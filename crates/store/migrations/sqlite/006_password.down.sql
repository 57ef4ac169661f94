ALTER TABLE users DROP COLUMN certificates_from;
