-- requires: 7
-- Which programs may work on these tables: those whose newest migration is at least the highest `requires`.
ALTER TABLE schema_version ADD COLUMN requires INTEGER;
