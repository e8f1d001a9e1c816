-- requires: 7
-- One log of events: those that are published over the API and those that changes of records became, beside the lifecycle.
-- What is published need not be about an integration.
-- only: sqlite
CREATE TABLE event_anew (
  id {identity},
  public_id TEXT NOT NULL UNIQUE,
  workspace TEXT NOT NULL,
  integration_id {bigint} REFERENCES integration (id) ON DELETE CASCADE,
  type TEXT NOT NULL,
  at TEXT NOT NULL,
  detail TEXT NOT NULL DEFAULT '{}'
);
-- only: sqlite
INSERT INTO event_anew SELECT id, public_id, workspace, integration_id, type, at, detail FROM event;
-- Numbers go on where they were, also where no event is kept: the router's cursor stands there.
-- only: sqlite
DELETE FROM sqlite_sequence WHERE name = 'event_anew';
-- only: sqlite
INSERT INTO sqlite_sequence (name, seq) SELECT 'event_anew', seq FROM sqlite_sequence WHERE name = 'event';
-- only: sqlite
DROP TABLE event;
-- only: sqlite
ALTER TABLE event_anew RENAME TO event;
-- only: postgresql
ALTER TABLE event ALTER COLUMN integration_id DROP NOT NULL;
-- lifecycle, published, record or sent. The payload of a record's change is in its version, that of a message in its delivery.
ALTER TABLE event ADD COLUMN source TEXT NOT NULL DEFAULT 'lifecycle';
ALTER TABLE event ADD COLUMN payload TEXT NOT NULL DEFAULT '';
ALTER TABLE event ADD COLUMN subject TEXT NOT NULL DEFAULT '';
ALTER TABLE event ADD COLUMN occurred_at TEXT;
ALTER TABLE event ADD COLUMN published_by TEXT NOT NULL DEFAULT '';
ALTER TABLE event ADD COLUMN dedupe TEXT;
CREATE UNIQUE INDEX event_dedupe ON event (workspace, dedupe) WHERE dedupe IS NOT NULL;
CREATE INDEX event_to_route ON event (id) WHERE source IN ('lifecycle', 'published');
-- Lists, newest first.
CREATE INDEX event_newest ON event (at, public_id);
CREATE INDEX event_newest_of_workspace ON event (workspace, at, public_id);
CREATE INDEX event_newest_of_integration ON event (integration_id, at, public_id);
CREATE INDEX delivery_of_event ON delivery (event_id);
CREATE INDEX delivery_notable ON delivery (event_at, event_id)
  WHERE status IN ('pending', 'sending', 'failed', 'dead', 'unknown', 'cancelled');
DROP INDEX delivery_by_status;
CREATE INDEX delivery_by_status_newest ON delivery (integration_id, status, id);
-- Whether anybody reads records of a kind.
CREATE INDEX entity_by_name ON entity (name, integration_id);
-- How the remote knows the message, where that is not the delivery's own id: an earlier one may have arrived under it.
ALTER TABLE delivery ADD COLUMN message_id TEXT;
-- Until when the attempt under way ends by itself.
ALTER TABLE delivery ADD COLUMN deadline_at TEXT;
-- The last request of the attempt and its answer: method, address, status, excerpts without secrets.
ALTER TABLE attempt ADD COLUMN exchange TEXT NOT NULL DEFAULT '';
-- What waits in one lane, in the order in which it is taken.
CREATE INDEX job_of_lane ON job (queue, key, asked DESC, prio, due_at, id) WHERE state = 'due';

-- Events that are to be told once more to one integration, and how far that got in each log; source 0 is the table `event`.
CREATE TABLE replay (
  id {identity},
  public_id TEXT NOT NULL UNIQUE,
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  since TEXT NOT NULL,
  until TEXT NOT NULL DEFAULT '',
  types TEXT NOT NULL DEFAULT '[]',
  synchronizations TEXT NOT NULL DEFAULT '[]',
  state TEXT NOT NULL CHECK (state IN ('running', 'done', 'cancelled')),
  events {bigint} NOT NULL DEFAULT 0,
  deliveries {bigint} NOT NULL DEFAULT 0,
  requested_by TEXT NOT NULL,
  requested_at TEXT NOT NULL,
  finished_at TEXT
);
CREATE INDEX replay_open ON replay (id) WHERE state = 'running';
CREATE TABLE replay_part (
  replay_id {bigint} NOT NULL REFERENCES replay (id) ON DELETE CASCADE,
  source {bigint} NOT NULL,
  position {bigint} NOT NULL,
  ceiling {bigint} NOT NULL,
  PRIMARY KEY (replay_id, source)
);
