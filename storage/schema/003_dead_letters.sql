-- Schema 2. A dead letter keeps what its record came with, so that it can be produced again as it was.

ALTER TABLE dead_letters ADD COLUMN key BLOB;
ALTER TABLE dead_letters ADD COLUMN headers VARCHAR;
ALTER TABLE dead_letters ADD COLUMN append_ts TIMESTAMP;
ALTER TABLE dead_letters ADD COLUMN size BIGINT;
ALTER TABLE dead_letters ADD COLUMN replayed_at TIMESTAMP;
