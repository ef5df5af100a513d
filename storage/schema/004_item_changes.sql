-- Schema 4. What an item was before each of its records: items can be read as of a position.

CREATE TABLE item_changes(
    topic VARCHAR NOT NULL, part INTEGER NOT NULL, off BIGINT NOT NULL,
    item_idx BIGINT NOT NULL, text VARCHAR, available BOOLEAN NOT NULL, first_seen TIMESTAMP);
