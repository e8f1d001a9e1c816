-- What is to be done. These rows decide; whatever the job engine stores may be lost at any time.
CREATE TABLE job (
  id {identity},
  kind TEXT NOT NULL,
  queue TEXT NOT NULL,
  key TEXT NOT NULL,
  ref TEXT NOT NULL,
  prio INTEGER NOT NULL,
  due_at TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('due', 'queued', 'running')),
  -- 1: a person waits for it. 2: a person asked while it ran, so it is asked once more when it ends.
  asked INTEGER NOT NULL DEFAULT 0,
  attempt {bigint} NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0,
  owner TEXT,
  lease_until TEXT,
  queued_at TEXT,
  again_at TEXT,
  UNIQUE (kind, ref)
);
CREATE INDEX job_due ON job (queue, asked DESC, prio, due_at, id, key) WHERE state = 'due';
CREATE INDEX job_next ON job (queue, due_at) WHERE state = 'due';
CREATE INDEX job_busy ON job (queue, key) WHERE state <> 'due';

-- One job at a time in a lane; the fence rises with every start and is never reset.
CREATE TABLE lane (
  queue TEXT NOT NULL,
  key TEXT NOT NULL,
  job_id {bigint},
  fence {bigint} NOT NULL,
  lease_until TEXT,
  PRIMARY KEY (queue, key)
);

-- The last attempt number given out: numbers outlive the rows that bore them.
CREATE TABLE job_ticket (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  value {bigint} NOT NULL
);
INSERT INTO job_ticket (id, value) VALUES (1, 0);

-- Processes that work on this store.
CREATE TABLE alive (
  id TEXT PRIMARY KEY,
  seen_at TEXT NOT NULL
);
