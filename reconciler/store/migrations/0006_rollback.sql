-- A run that brings an earlier dataset version back, and the version that came of it: which one. Null for a sync.
ALTER TABLE run ADD COLUMN restores INTEGER;
ALTER TABLE dataset_version ADD COLUMN restores INTEGER;
