-- requires: 7
-- Pages of history that name what they want: answered without reading what is between.
CREATE INDEX log_told ON log (integration_id, level, id) WHERE level <> 'debug';
CREATE INDEX log_of_run ON log (run_id, id) WHERE run_id IS NOT NULL;
CREATE INDEX run_unwell ON run (integration_id, id) WHERE result IN ('cancelled', 'failed', 'partial');
CREATE INDEX run_not_incremental ON run (integration_id, id) WHERE scope <> 'incremental';
CREATE INDEX dataset_version_of_run ON dataset_version (integration_id, run_id);
CREATE INDEX audit_of_workspace ON audit (workspace, id);

-- A reconcile that somebody asked for with a word of his own: the same word again asks for nothing more.
-- `workspace` is that of who asked, empty for the whole installation.
CREATE TABLE reconcile_token (
  workspace TEXT NOT NULL,
  token TEXT NOT NULL,
  integration_id {bigint},
  request TEXT NOT NULL,
  requested_at TEXT NOT NULL,
  PRIMARY KEY (workspace, token)
);
CREATE INDEX reconcile_token_age ON reconcile_token (requested_at);
