-- Schema 1. No indexes and no keys on tables that grow; defaults are literals only.

CREATE TABLE meta(key VARCHAR NOT NULL, value VARCHAR NOT NULL);

-- The log: what was read, where it went, what became of it.
CREATE TABLE position_ranges(
    topic VARCHAR NOT NULL, part INTEGER NOT NULL,
    first_off BIGINT NOT NULL, next_off BIGINT NOT NULL,
    records BIGINT NOT NULL, interactions BIGINT NOT NULL, dead BIGINT NOT NULL, items BIGINT NOT NULL,
    late BIGINT NOT NULL, duplicates BIGINT NOT NULL, displaced BIGINT NOT NULL,
    max_event TIMESTAMP, read_at TIMESTAMP NOT NULL);
CREATE TABLE scored_positions(
    topic VARCHAR NOT NULL, part INTEGER NOT NULL, next_off BIGINT NOT NULL, scored_at TIMESTAMP NOT NULL);
CREATE TABLE dead_letters(
    topic VARCHAR NOT NULL, part INTEGER NOT NULL, off BIGINT NOT NULL,
    reason VARCHAR NOT NULL, detail VARCHAR, raw BLOB, ingested_at TIMESTAMP NOT NULL);

-- Identities: dense internal ids in order of first sight.
CREATE TABLE users(
    user_idx BIGINT NOT NULL, user_id VARCHAR NOT NULL, topic VARCHAR NOT NULL, part INTEGER NOT NULL,
    first_seen TIMESTAMP);
CREATE TABLE items(
    item_idx BIGINT NOT NULL, item_id VARCHAR NOT NULL, text VARCHAR,
    available BOOLEAN NOT NULL DEFAULT true, first_seen TIMESTAMP, source VARCHAR);

-- Interactions: the hot table takes new rows in arrival order; runs are sorted by user and history key.
CREATE TABLE interactions_hot(
    user_idx BIGINT NOT NULL, item_idx BIGINT NOT NULL, event_type VARCHAR NOT NULL,
    ts TIMESTAMP NOT NULL, seq BIGINT NOT NULL, value DOUBLE, weight DOUBLE NOT NULL,
    in_history BOOLEAN NOT NULL, scores BOOLEAN NOT NULL, duplicate BOOLEAN NOT NULL,
    displaced BOOLEAN NOT NULL, late BOOLEAN NOT NULL,
    h_ts TIMESTAMP NOT NULL, h_seq BIGINT NOT NULL, h_part INTEGER NOT NULL, h_off BIGINT NOT NULL,
    event_id VARCHAR, session_id VARCHAR, recommendation_id VARCHAR, props VARCHAR,
    topic VARCHAR NOT NULL, part INTEGER NOT NULL, off BIGINT NOT NULL,
    append_ts TIMESTAMP, ingested_at TIMESTAMP NOT NULL);
CREATE TABLE interactions_runs(
    user_idx BIGINT NOT NULL, item_idx BIGINT NOT NULL, event_type VARCHAR NOT NULL,
    ts TIMESTAMP NOT NULL, seq BIGINT NOT NULL, value DOUBLE, weight DOUBLE NOT NULL,
    in_history BOOLEAN NOT NULL, scores BOOLEAN NOT NULL, duplicate BOOLEAN NOT NULL,
    displaced BOOLEAN NOT NULL, late BOOLEAN NOT NULL,
    h_ts TIMESTAMP NOT NULL, h_seq BIGINT NOT NULL, h_part INTEGER NOT NULL, h_off BIGINT NOT NULL,
    event_id VARCHAR, session_id VARCHAR, recommendation_id VARCHAR, props VARCHAR,
    topic VARCHAR NOT NULL, part INTEGER NOT NULL, off BIGINT NOT NULL,
    append_ts TIMESTAMP, ingested_at TIMESTAMP NOT NULL, run INTEGER NOT NULL);

-- Counters of the rows in runs: sums at the fixed reference time of meta 'counter_ref'.
CREATE TABLE counter_runs(
    run INTEGER NOT NULL, user_idx BIGINT NOT NULL, item_idx BIGINT NOT NULL,
    n DOUBLE NOT NULL, s7 DOUBLE NOT NULL, s30 DOUBLE NOT NULL, s90 DOUBLE NOT NULL, s365 DOUBLE NOT NULL,
    last_ts TIMESTAMP NOT NULL, last_h_ts TIMESTAMP NOT NULL);
-- Per run and partition: the offset after the newest row that moved; older as-of reads sum raw rows.
CREATE TABLE rotations(
    run INTEGER NOT NULL, topic VARCHAR NOT NULL, part INTEGER NOT NULL, upto BIGINT NOT NULL);

-- Tokens. Without the clause new file formats choose ZSTD, which makes batch reads 600 times slower.
CREATE TABLE token_groups(
    user_idx BIGINT NOT NULL, model_version VARCHAR NOT NULL, segment INTEGER NOT NULL,
    k INTEGER NOT NULL, layers INTEGER NOT NULL, d_kv INTEGER NOT NULL, dtype VARCHAR NOT NULL,
    checksum UBIGINT NOT NULL, bytes BIGINT NOT NULL,
    first_h_ts TIMESTAMP NOT NULL, first_h_seq BIGINT NOT NULL, first_h_part INTEGER NOT NULL,
    first_h_off BIGINT NOT NULL, first_displaced BOOLEAN NOT NULL, first_row_off BIGINT NOT NULL,
    last_h_ts TIMESTAMP NOT NULL, last_h_seq BIGINT NOT NULL, last_h_part INTEGER NOT NULL,
    last_h_off BIGINT NOT NULL, last_displaced BOOLEAN NOT NULL, last_row_off BIGINT NOT NULL,
    n_items INTEGER NOT NULL, first_off BIGINT NOT NULL, last_off BIGINT NOT NULL,
    device VARCHAR NOT NULL, compute_dtype VARCHAR NOT NULL, run_id BIGINT NOT NULL,
    outputs FLOAT[], mean_out FLOAT[], created_at TIMESTAMP NOT NULL,
    kv BLOB USING COMPRESSION uncompressed);
CREATE TABLE refresh_runs(
    run_id BIGINT NOT NULL, model_version VARCHAR NOT NULL, ran_at TIMESTAMP NOT NULL, watermark VARCHAR NOT NULL,
    users BIGINT NOT NULL, segments BIGINT NOT NULL, seconds DOUBLE NOT NULL, visible_from TIMESTAMP,
    status VARCHAR NOT NULL, note VARCHAR);
CREATE TABLE refresh_failures(
    user_idx BIGINT NOT NULL, model_version VARCHAR NOT NULL, attempts INTEGER NOT NULL,
    error VARCHAR NOT NULL, quarantined BOOLEAN NOT NULL, failed_at TIMESTAMP NOT NULL);

-- Everything besides the log that can change a slate, with the positions from which it applied.
CREATE TABLE journal(
    journal_id BIGINT NOT NULL, kind VARCHAR NOT NULL, ref VARCHAR NOT NULL, detail VARCHAR NOT NULL,
    recorded_at TIMESTAMP NOT NULL);
CREATE TABLE journal_positions(
    journal_id BIGINT NOT NULL, topic VARCHAR NOT NULL, part INTEGER NOT NULL, next_off BIGINT NOT NULL);

CREATE TABLE model_registry(
    version VARCHAR NOT NULL, digest VARCHAR NOT NULL, config VARCHAR NOT NULL, trained_through TIMESTAMP,
    path VARCHAR, registered_at TIMESTAMP NOT NULL, activation INTEGER);
CREATE TABLE slates(
    slate_no BIGINT NOT NULL, slate_id VARCHAR NOT NULL, user_idx BIGINT NOT NULL, asked_at TIMESTAMP NOT NULL,
    topic VARCHAR, part INTEGER, off BIGINT, model_version VARCHAR, reason VARCHAR NOT NULL,
    items VARCHAR NOT NULL, detail VARCHAR);
