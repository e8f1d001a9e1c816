-- requires: 7
-- What a watched run tells, in order. `told`: the last number given out, NULL while nobody has asked; `told_batches`: how many
-- of its pages were told, with those from before anybody asked.
ALTER TABLE run ADD COLUMN told INTEGER;
ALTER TABLE run ADD COLUMN told_batches INTEGER NOT NULL DEFAULT 0;

-- `mark`: which records a page brought, so that one that is read again after a crash is not told again.
CREATE TABLE run_event (
  run_id {bigint} NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  kind TEXT NOT NULL,
  body TEXT NOT NULL,
  mark TEXT,
  PRIMARY KEY (run_id, number)
);
CREATE UNIQUE INDEX run_event_mark ON run_event (run_id, mark);
