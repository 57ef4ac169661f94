-- Certificates of a user that begin at this second (unix) or before are not good any more: the password was changed.
ALTER TABLE users ADD COLUMN certificates_from INTEGER NOT NULL DEFAULT 0;
