-- requires: 7
-- Mutations that came with an Idempotency-Key: `status` NULL while one is under way, or was when its process ended.
CREATE TABLE api_request (
  id {identity},
  caller TEXT NOT NULL,
  key TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  marker TEXT NOT NULL,
  made_at TEXT NOT NULL,
  started_at TEXT NOT NULL,
  status INTEGER,
  headers TEXT NOT NULL DEFAULT '{}',
  body TEXT NOT NULL DEFAULT '',
  UNIQUE (caller, key)
);
CREATE INDEX api_request_age ON api_request (made_at);

-- Every change that was asked for over the API, also those that were refused.
CREATE TABLE audit (
  id {identity},
  at TEXT NOT NULL,
  workspace TEXT,
  caller TEXT NOT NULL,
  identity TEXT NOT NULL,
  request_id TEXT NOT NULL,
  action TEXT NOT NULL,
  target TEXT NOT NULL DEFAULT '',
  outcome TEXT NOT NULL,
  status INTEGER NOT NULL,
  revision TEXT NOT NULL DEFAULT '',
  detail TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_age ON audit (at);
