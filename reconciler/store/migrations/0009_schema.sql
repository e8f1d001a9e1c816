-- requires: 7
-- The fields of an entity's records as far as they were looked at, as JSON; and runs that take them as they are now.
ALTER TABLE entity ADD COLUMN shape TEXT NOT NULL DEFAULT '';
ALTER TABLE run ADD COLUMN accepts_schema INTEGER NOT NULL DEFAULT 0;
