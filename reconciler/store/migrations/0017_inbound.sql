-- requires: 7
-- What remotes sent us, stored before they are answered. `kind`: webhook, events, record or batch.
CREATE TABLE inbox (
  id {identity},
  public_id TEXT NOT NULL UNIQUE,
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  kind TEXT NOT NULL,
  received_at TEXT NOT NULL,
  accepted INTEGER NOT NULL DEFAULT 0,
  duplicates INTEGER NOT NULL DEFAULT 0,
  error TEXT NOT NULL DEFAULT ''
);
CREATE INDEX inbox_age ON inbox (received_at);

-- Each record of it that is still to be stored, or to be read again. `op`: put, delete or read. What is done keeps no payload.
CREATE TABLE inbox_item (
  id {identity},
  inbox_id {bigint} NOT NULL REFERENCES inbox (id) ON DELETE CASCADE,
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  entity TEXT NOT NULL,
  key TEXT NOT NULL,
  op TEXT NOT NULL,
  payload {blob},
  position INTEGER NOT NULL DEFAULT 0,
  is_silent INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL CHECK (state IN ('queued', 'done', 'failed')),
  error TEXT NOT NULL DEFAULT ''
);
CREATE INDEX inbox_item_queued ON inbox_item (integration_id, entity, id) WHERE state = 'queued';
CREATE INDEX inbox_item_of ON inbox_item (inbox_id);

-- Ids of what was taken already: a second time it has no effect.
CREATE TABLE inbox_seen (
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  identity TEXT NOT NULL,
  inbox_id {bigint} NOT NULL,
  at TEXT NOT NULL,
  PRIMARY KEY (integration_id, identity)
);
CREATE INDEX inbox_seen_age ON inbox_seen (at);

-- The newest version of each pushed record that was accepted, whether it is in the dataset already or not.
CREATE TABLE pushed (
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  entity TEXT NOT NULL,
  key TEXT NOT NULL,
  version TEXT NOT NULL DEFAULT '',
  updated_at TEXT,
  digest TEXT NOT NULL DEFAULT '',
  is_deleted INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (integration_id, entity, key)
);

-- What the pages of a snapshot named so far.
CREATE TABLE pushed_snapshot (
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  entity TEXT NOT NULL,
  snapshot TEXT NOT NULL,
  key TEXT NOT NULL,
  at TEXT NOT NULL,
  PRIMARY KEY (integration_id, entity, snapshot, key)
);

-- Keys with which others push to us, as hashes.
CREATE TABLE ingest_key (
  id {identity},
  key_id TEXT NOT NULL UNIQUE,
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  sha256 TEXT NOT NULL,
  hint TEXT NOT NULL,
  label TEXT NOT NULL DEFAULT '',
  created_at TEXT NOT NULL,
  created_by TEXT NOT NULL,
  expires_at TEXT,
  valid_until TEXT,
  revoked_at TEXT,
  last_used_at TEXT
);
CREATE INDEX ingest_key_of ON ingest_key (integration_id, id);
