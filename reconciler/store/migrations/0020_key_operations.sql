-- requires: 7
-- How often keys with which others push were made, replaced and revoked. `op`: create, regenerate or revoke.
CREATE TABLE ingest_key_operation (
  integration_id {bigint} NOT NULL REFERENCES integration (id) ON DELETE CASCADE,
  op TEXT NOT NULL,
  count INTEGER NOT NULL,
  PRIMARY KEY (integration_id, op)
);
