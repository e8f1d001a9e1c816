-- Questions that are asked every second or at every commit, answered without reading history.
CREATE INDEX run_open ON run (integration_id, id) WHERE state <> 'done';
CREATE INDEX reject_of_run ON reject (run_id);
CREATE INDEX integration_unrouted ON integration (id) WHERE seq > routed_seq;
CREATE INDEX delivery_open_of ON delivery (integration_id, status, id) WHERE status IN ('pending', 'sending', 'failed');
CREATE INDEX delivery_retry_of ON delivery (retry_of) WHERE retry_of IS NOT NULL;
