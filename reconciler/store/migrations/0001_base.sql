-- Every table of the domain. Times are RFC 3339 UTC text with microseconds (sorts as text); JSON is text; booleans are 0/1.

CREATE TABLE meta (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
);

-- Where desired state comes from, and how the last fetch went.
CREATE TABLE source (
  name TEXT PRIMARY KEY,
  url TEXT NOT NULL,
  revision TEXT NOT NULL DEFAULT '',
  attempted_revision TEXT NOT NULL DEFAULT '',
  fetched_at TEXT,
  attempted_at TEXT,
  error_reason TEXT NOT NULL DEFAULT '',
  error_message TEXT NOT NULL DEFAULT '',
  error_since TEXT
);

-- What became of each revision that was looked at.
CREATE TABLE revision (
  id {identity},
  source TEXT NOT NULL,
  revision TEXT NOT NULL,
  at TEXT NOT NULL,
  outcome TEXT NOT NULL,
  plan_digest TEXT NOT NULL DEFAULT '',
  findings INTEGER NOT NULL DEFAULT 0,
  actions TEXT NOT NULL DEFAULT '{}'
);

-- Findings of the revision in force, replaced as a whole.
CREATE TABLE finding (
  id {identity},
  workspace TEXT NOT NULL DEFAULT '',
  name TEXT NOT NULL DEFAULT '',
  file TEXT NOT NULL,
  line INTEGER NOT NULL,
  col INTEGER NOT NULL,
  code TEXT NOT NULL,
  message TEXT NOT NULL,
  remedy TEXT NOT NULL,
  severity TEXT NOT NULL
);

-- A prune that a person allowed: exactly these names at exactly this revision.
CREATE TABLE approval (
  digest TEXT PRIMARY KEY,
  revision TEXT NOT NULL,
  names TEXT NOT NULL,
  approved_by TEXT NOT NULL,
  approved_at TEXT NOT NULL
);

-- One integration for as long as anything of it is known; `seq` is the last number given to a record version.
CREATE TABLE integration (
  id {identity},
  public_id TEXT NOT NULL UNIQUE,
  workspace TEXT NOT NULL,
  name TEXT NOT NULL,
  type TEXT NOT NULL,
  display_name TEXT NOT NULL DEFAULT '',
  labels TEXT NOT NULL DEFAULT '{}',
  is_desired INTEGER NOT NULL DEFAULT 1,
  generation INTEGER NOT NULL DEFAULT 1,
  observed_generation INTEGER NOT NULL DEFAULT 0,
  desired_tree TEXT NOT NULL DEFAULT '{}',
  desired_hash TEXT NOT NULL DEFAULT '',
  desired_effective TEXT NOT NULL DEFAULT '',
  file TEXT NOT NULL DEFAULT '',
  line INTEGER NOT NULL DEFAULT 0,
  revision TEXT NOT NULL DEFAULT '',
  created_by TEXT NOT NULL DEFAULT '',
  manifest_updated_at TEXT,
  applied_tree TEXT,
  applied_hash TEXT NOT NULL DEFAULT '',
  applied_effective TEXT NOT NULL DEFAULT '',
  applied_fingerprints TEXT NOT NULL DEFAULT '{}',
  applied_revision TEXT NOT NULL DEFAULT '',
  applied_type TEXT NOT NULL DEFAULT '',
  applied_policy TEXT NOT NULL DEFAULT 'disconnect',
  applied_at TEXT,
  is_connected INTEGER NOT NULL DEFAULT 0,
  suspend_reason TEXT NOT NULL DEFAULT '',
  suspended_by TEXT NOT NULL DEFAULT '',
  suspended_until TEXT,
  identity TEXT NOT NULL DEFAULT '',
  account TEXT NOT NULL DEFAULT '',
  missing TEXT NOT NULL DEFAULT '[]',
  latency_ms REAL,
  skew_ms REAL,
  probe_at TEXT,
  next_probe_at TEXT,
  error_count INTEGER NOT NULL DEFAULT 0,
  credential_expires_at TEXT,
  connected_at TEXT,
  retries INTEGER NOT NULL DEFAULT 0,
  next_attempt_at TEXT,
  freshness_seconds REAL,
  next_sync_at TEXT,
  last_sync_at TEXT,
  last_sync_result TEXT NOT NULL DEFAULT '',
  last_sync_reason TEXT NOT NULL DEFAULT '',
  last_sync_error TEXT NOT NULL DEFAULT '',
  last_run_at TEXT,
  total_syncs INTEGER NOT NULL DEFAULT 0,
  failed_syncs INTEGER NOT NULL DEFAULT 0,
  drifted TEXT NOT NULL DEFAULT '[]',
  seq {bigint} NOT NULL DEFAULT 0,
  routed_seq {bigint} NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL,
  removed_at TEXT,
  UNIQUE (workspace, name)
);
CREATE INDEX integration_next_sync ON integration (next_sync_at) WHERE next_sync_at IS NOT NULL;
CREATE INDEX integration_next_probe ON integration (next_probe_at) WHERE next_probe_at IS NOT NULL;

CREATE TABLE condition (
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  type TEXT NOT NULL,
  truth TEXT NOT NULL,
  reason TEXT NOT NULL,
  message TEXT NOT NULL,
  since TEXT NOT NULL,
  generation INTEGER NOT NULL,
  PRIMARY KEY (integration_id, type)
);

-- Probes by day, for the uptime ratio.
CREATE TABLE uptime (
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  day TEXT NOT NULL,
  good INTEGER NOT NULL DEFAULT 0,
  bad INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (integration_id, day)
);

-- Remote objects we created. A row `creating` is committed before the remote call.
CREATE TABLE inventory (
  id {identity},
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  kind TEXT NOT NULL,
  marker TEXT NOT NULL,
  remote_id TEXT NOT NULL DEFAULT '',
  state TEXT NOT NULL CHECK (state IN ('creating', 'present', 'deleting')),
  spec TEXT NOT NULL DEFAULT '{}',
  secret_fingerprint TEXT NOT NULL DEFAULT '',
  is_adopted INTEGER NOT NULL DEFAULT 0,
  updated_at TEXT NOT NULL,
  UNIQUE (integration_id, kind, marker)
);

-- Credentials obtained at run time, AES-256-GCM under the master key `key_id`.
CREATE TABLE credential (
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  ciphertext {blob} NOT NULL,
  key_id TEXT NOT NULL,
  expires_at TEXT,
  updated_at TEXT NOT NULL,
  PRIMARY KEY (integration_id, name)
);

CREATE TABLE run (
  id {identity},
  public_id TEXT NOT NULL UNIQUE,
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  scope TEXT NOT NULL,
  cause TEXT NOT NULL,
  entities TEXT,
  since TEXT,
  allow_deletes INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL CHECK (state IN ('due', 'running', 'done')),
  step TEXT NOT NULL DEFAULT '',
  result TEXT NOT NULL DEFAULT '',
  reason TEXT NOT NULL DEFAULT '',
  error TEXT NOT NULL DEFAULT '',
  is_cancelling INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0,
  fence {bigint} NOT NULL DEFAULT 0,
  generation INTEGER NOT NULL DEFAULT 0,
  revision TEXT NOT NULL DEFAULT '',
  spec_hash TEXT NOT NULL DEFAULT '',
  connector_version TEXT NOT NULL DEFAULT '',
  requested_at TEXT NOT NULL,
  started_at TEXT,
  progressed_at TEXT,
  finished_at TEXT,
  added INTEGER NOT NULL DEFAULT 0,
  updated INTEGER NOT NULL DEFAULT 0,
  unchanged INTEGER NOT NULL DEFAULT 0,
  deleted INTEGER NOT NULL DEFAULT 0,
  rejected INTEGER NOT NULL DEFAULT 0,
  pages INTEGER NOT NULL DEFAULT 0,
  estimated INTEGER,
  dataset_version INTEGER
);
CREATE INDEX run_of_integration ON run (integration_id, id);
CREATE UNIQUE INDEX run_one_open ON run (integration_id) WHERE state = 'running';

CREATE TABLE entity (
  id {identity},
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  watermarks TEXT NOT NULL DEFAULT '{}',
  validators TEXT NOT NULL DEFAULT '{}',
  records INTEGER NOT NULL DEFAULT 0,
  completed_at TEXT,
  full_completed_at TEXT,
  UNIQUE (integration_id, name)
);

-- How far a run is in each entity; what it saw is promoted to `entity` when the entity completes.
CREATE TABLE run_entity (
  run_id {bigint} NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  entity_id {bigint} NOT NULL REFERENCES entity (id) ON DELETE CASCADE,
  state TEXT NOT NULL CHECK (state IN ('pending', 'reading', 'complete', 'partial', 'failed')),
  position TEXT,
  watermarks TEXT NOT NULL DEFAULT '{}',
  validators TEXT NOT NULL DEFAULT '{}',
  is_silent INTEGER NOT NULL DEFAULT 0,
  pages INTEGER NOT NULL DEFAULT 0,
  records INTEGER NOT NULL DEFAULT 0,
  total INTEGER,
  reason TEXT NOT NULL DEFAULT '',
  error TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (run_id, entity_id)
);

-- The narrow head of every record: one row per key. `id` is the number of its first version.
CREATE TABLE head (
  id {bigint} PRIMARY KEY,
  entity_id {bigint} NOT NULL,
  key TEXT NOT NULL,
  version_id {bigint} NOT NULL,
  deleted INTEGER NOT NULL DEFAULT 0,
  hash {blob} NOT NULL,
  UNIQUE (entity_id, key)
);

-- The append-only log: each payload once. number = integration id * 2^40 + seq; `prev` is the record's version before.
CREATE TABLE version (
  number {bigint} PRIMARY KEY,
  entity_id {bigint} NOT NULL,
  key TEXT NOT NULL,
  prev {bigint},
  op INTEGER NOT NULL,
  silent INTEGER NOT NULL DEFAULT 0,
  run_id {bigint} NOT NULL,
  at TEXT NOT NULL,
  hash {blob} NOT NULL,
  payload {blob}
);

-- Which records a full run has seen, a row per page.
CREATE TABLE seen_page (
  run_id {bigint} NOT NULL,
  entity_id {bigint} NOT NULL,
  page INTEGER NOT NULL,
  ids TEXT NOT NULL,
  PRIMARY KEY (run_id, entity_id, page)
);

CREATE TABLE dataset_version (
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  run_id {bigint} NOT NULL,
  at TEXT NOT NULL,
  last_number {bigint} NOT NULL,
  revision TEXT NOT NULL,
  spec_hash TEXT NOT NULL,
  connector TEXT NOT NULL,
  connector_version TEXT NOT NULL,
  added INTEGER NOT NULL,
  updated INTEGER NOT NULL,
  deleted INTEGER NOT NULL,
  PRIMARY KEY (integration_id, number)
);

CREATE TABLE reject (
  id {identity},
  run_id {bigint} NOT NULL,
  entity_id {bigint} NOT NULL,
  key TEXT NOT NULL,
  payload {blob} NOT NULL,
  violations TEXT NOT NULL,
  at TEXT NOT NULL
);

CREATE TABLE log (
  id {identity},
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  run_id {bigint},
  at TEXT NOT NULL,
  level TEXT NOT NULL,
  message TEXT NOT NULL,
  detail TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX log_of_integration ON log (integration_id, id);

-- Lifecycle events; changes of records are events by being in `version`.
CREATE TABLE event (
  id {identity},
  public_id TEXT NOT NULL UNIQUE,
  workspace TEXT NOT NULL,
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  type TEXT NOT NULL,
  at TEXT NOT NULL,
  detail TEXT NOT NULL DEFAULT '{}'
);

CREATE TABLE delivery (
  id {identity},
  public_id TEXT NOT NULL UNIQUE,
  dedupe TEXT NOT NULL UNIQUE,
  event_id TEXT NOT NULL,
  event_type TEXT NOT NULL,
  event_at TEXT NOT NULL,
  source_id {bigint},
  entity TEXT NOT NULL DEFAULT '',
  key TEXT NOT NULL DEFAULT '',
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  synchronization TEXT NOT NULL,
  channel TEXT NOT NULL,
  status TEXT NOT NULL CHECK (
    status IN ('pending', 'sending', 'delivered', 'failed', 'dead', 'unknown', 'cancelled')
  ),
  attempts INTEGER NOT NULL DEFAULT 0,
  fence {bigint} NOT NULL DEFAULT 0,
  fields TEXT NOT NULL,
  progress TEXT NOT NULL DEFAULT '{}',
  receipt TEXT NOT NULL DEFAULT '{}',
  reason TEXT NOT NULL DEFAULT '',
  error TEXT NOT NULL DEFAULT '',
  retry_of {bigint},
  is_cancelling INTEGER NOT NULL DEFAULT 0,
  created_at TEXT NOT NULL,
  first_attempt_at TEXT,
  next_at TEXT,
  finished_at TEXT
);
CREATE INDEX delivery_of_integration ON delivery (integration_id, id);
CREATE INDEX delivery_by_status ON delivery (integration_id, status);
CREATE INDEX delivery_open ON delivery (status, next_at) WHERE status IN ('pending', 'sending', 'failed');

CREATE TABLE attempt (
  delivery_id {bigint} NOT NULL REFERENCES delivery (id) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  at TEXT NOT NULL,
  seconds REAL,
  outcome TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  message TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (delivery_id, number)
);

-- How far events were routed, besides integration.routed_seq.
CREATE TABLE route_cursor (
  name TEXT PRIMARY KEY,
  position {bigint} NOT NULL
);

-- What a person asked for: the command line writes it, the daemon answers.
CREATE TABLE request (
  id {identity},
  public_id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  integration_id {bigint},
  params TEXT NOT NULL DEFAULT '{}',
  requested_by TEXT NOT NULL DEFAULT '',
  requested_at TEXT NOT NULL,
  handled_at TEXT,
  result TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX request_open ON request (id) WHERE handled_at IS NULL;

-- Shared by all workers: until when a budget's remote wants to be left alone.
CREATE TABLE budget (
  key TEXT PRIMARY KEY,
  blocked_until TEXT NOT NULL
);
