-- requires: 7
-- Runs that list keys alone. An older release takes such a run for the full one that `scope` says, which finds the same.
ALTER TABLE run ADD COLUMN keys_only INTEGER NOT NULL DEFAULT 0;
ALTER TABLE run ADD COLUMN listed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE run ADD COLUMN missing INTEGER NOT NULL DEFAULT 0;
ALTER TABLE run_entity ADD COLUMN missing INTEGER NOT NULL DEFAULT 0;
-- The last number of the integration's log when the run began: what was written later it need not have seen.
ALTER TABLE run ADD COLUMN began_number {bigint};
ALTER TABLE integration ADD COLUMN next_keys_at TEXT;
CREATE INDEX integration_next_keys ON integration (next_keys_at) WHERE next_keys_at IS NOT NULL;
