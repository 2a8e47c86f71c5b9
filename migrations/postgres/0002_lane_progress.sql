-- How far each process has come in each lane, instead of what it has served last. Twin of the SQLite step.
-- Moments are those at which messages entered the lane: of the newest that the process was delivered, and of the
-- oldest that it holds.
ALTER TABLE workers RENAME COLUMN served_high TO newest_high;
ALTER TABLE workers RENAME COLUMN served_normal TO newest_normal;
ALTER TABLE workers RENAME COLUMN served_low TO newest_low;
ALTER TABLE workers ADD COLUMN oldest_high TIMESTAMPTZ;
ALTER TABLE workers ADD COLUMN oldest_normal TIMESTAMPTZ;
ALTER TABLE workers ADD COLUMN oldest_low TIMESTAMPTZ;
