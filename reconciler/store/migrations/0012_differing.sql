-- requires: 7
-- Who is in question when nothing is known to have changed: asked at every revision, answered without reading who is well.
CREATE INDEX integration_differing ON integration (workspace, name) WHERE removed_at IS NULL
  AND (is_desired = 0 OR is_connected = 0 OR drifted <> '[]' OR applied_hash <> desired_hash
  OR (applied_effective <> '' AND applied_effective <> desired_effective));
CREATE INDEX condition_unwell ON condition (type, integration_id) WHERE truth <> 'True';
