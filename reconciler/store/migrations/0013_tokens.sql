-- requires: 7
-- API tokens as hashes. `workspace` NULL: the whole installation. `origin`: command, or git for those of a workspace's manifest.
CREATE TABLE api_token (
  id {identity},
  public_id TEXT NOT NULL UNIQUE,
  workspace TEXT,
  name TEXT NOT NULL,
  sha256 TEXT NOT NULL UNIQUE,
  permissions TEXT NOT NULL,
  origin TEXT NOT NULL,
  created_at TEXT NOT NULL,
  created_by TEXT NOT NULL,
  expires_at TEXT,
  revoked_at TEXT,
  last_used_at TEXT
);
