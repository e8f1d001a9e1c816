-- requires: 7
-- One row for each record that could not be taken, however often it comes; NULL where an older release kept it.
ALTER TABLE reject ADD COLUMN identity TEXT;
ALTER TABLE reject ADD COLUMN listing TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX reject_identity ON reject (entity_id, identity) WHERE identity IS NOT NULL;
CREATE INDEX reject_of_entity ON reject (entity_id, id);
CREATE INDEX reject_age ON reject (at);
-- Records of this run whose key could not be read: with any, it cannot tell who is gone.
ALTER TABLE run_entity ADD COLUMN nameless INTEGER NOT NULL DEFAULT 0;
