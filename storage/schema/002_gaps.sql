-- Schema 2. A log that goes on without us: records it dropped before they were read, a loss someone accepted.

CREATE TABLE gaps(
    topic VARCHAR NOT NULL, part INTEGER NOT NULL, first_off BIGINT NOT NULL, next_off BIGINT NOT NULL,
    accepted_at TIMESTAMP NOT NULL);
