-- What is older than kept is found without reading what is kept: that would hold up all writing every hour.
CREATE INDEX run_ended ON run (finished_at) WHERE state = 'done';
CREATE INDEX delivery_ended ON delivery (finished_at) WHERE finished_at IS NOT NULL;
-- Runs whose changes are still to become events.
CREATE INDEX run_routing ON run (integration_id) WHERE step = 'route';
