-- The deliveries that failed, of which the log is asked most: among a month of delivered ones they are few. Twin of the
-- PostgreSQL step.

CREATE INDEX IF NOT EXISTS webhook_deliveries_failed ON webhook_deliveries (endpoint_id, id) WHERE state = 'failed';
