-- requires: 7
-- What a person may be asked to allow at a remote, as the last reconcile found it. Nothing in it is secret.
CREATE TABLE authorization_offer (
  integration_id {bigint} NOT NULL PRIMARY KEY REFERENCES integration (id) ON DELETE CASCADE,
  generation INTEGER NOT NULL,
  authorize_url TEXT NOT NULL,
  client_id TEXT NOT NULL,
  scopes TEXT NOT NULL,
  has_pkce INTEGER NOT NULL,
  redirect_uri TEXT NOT NULL
);

-- One attempt of a person to allow it. `state` is a hash; verifier and code are sealed, and wiped when they are used.
CREATE TABLE authorization_attempt (
  id {identity},
  public_id TEXT NOT NULL UNIQUE,
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  generation INTEGER NOT NULL,
  state_sha256 TEXT NOT NULL UNIQUE,
  redirect_uri TEXT NOT NULL,
  verifier {blob},
  code {blob},
  step TEXT NOT NULL,
  message TEXT NOT NULL DEFAULT '',
  requested_by TEXT NOT NULL,
  created_at TEXT NOT NULL,
  expires_at TEXT NOT NULL,
  used_at TEXT
);
CREATE INDEX authorization_attempt_of ON authorization_attempt (integration_id);

-- What credentials may do, and how they are told apart without being told.
ALTER TABLE credential ADD COLUMN scopes TEXT;
ALTER TABLE credential ADD COLUMN fingerprint TEXT NOT NULL DEFAULT '';

-- Keys that outlive a master key, sealed with it: `fingerprints`, and `transit`, for which anybody may seal with `public`.
CREATE TABLE sealed_key (
  purpose TEXT NOT NULL PRIMARY KEY,
  key_id TEXT NOT NULL,
  ciphertext {blob} NOT NULL,
  public TEXT NOT NULL DEFAULT ''
);
