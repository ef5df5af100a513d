-- Views over the tables: the first group serves the program, the second one people.

-- ---- internal ------------------------------------------------------------------------------------

CREATE OR REPLACE VIEW rows_all AS
    SELECT *, true AS hot FROM interactions_hot
    UNION ALL
    SELECT * EXCLUDE (run), false AS hot FROM interactions_runs;

-- Rows as they cross the package border: times as epoch milliseconds.
CREATE OR REPLACE VIEW rows_ms AS
    SELECT user_idx, item_idx, event_type, epoch_ms(ts) AS ts_ms, seq, value, weight,
        in_history, scores, duplicate, displaced, late,
        epoch_ms(h_ts) AS h_ts_ms, h_seq, h_part, h_off,
        event_id, session_id, recommendation_id, props, topic, part, off,
        epoch_ms(append_ts) AS append_ts_ms, epoch_ms(ingested_at) AS ingested_at_ms, hot, h_ts
    FROM rows_all;

CREATE OR REPLACE VIEW settings AS
    SELECT
        coalesce(max(value) FILTER (key = 'segment_len'), '64')::BIGINT AS segment_len,
        coalesce(max(value) FILTER (key = 'r_min'), '64')::BIGINT AS r_min,
        coalesce(max(value) FILTER (key = 'lateness_ms'), '0')::BIGINT AS lateness_ms,
        max(value) FILTER (key = 'counter_ref')::BIGINT AS counter_ref
    FROM meta;

-- What each history row adds to its counter. 700 keeps exp within float64, 13 years past the reference.
CREATE OR REPLACE VIEW counter_terms AS
    SELECT r.user_idx, r.item_idx, r.weight AS n,
        r.weight * exp(least(r.age / 7.0, 700.0)) AS s7,
        r.weight * exp(least(r.age / 30.0, 700.0)) AS s30,
        r.weight * exp(least(r.age / 90.0, 700.0)) AS s90,
        r.weight * exp(least(r.age / 365.0, 700.0)) AS s365,
        r.ts, r.h_ts, epoch_ms(r.h_ts) AS h_ts_ms, r.h_seq, r.h_part, r.h_off, r.displaced,
        r.topic, r.part, r.off, r.hot
    FROM (
        SELECT *, (epoch_ms(ts) - (SELECT counter_ref FROM settings)) / 86400000.0 AS age
        FROM rows_all WHERE in_history
    ) r;

CREATE OR REPLACE VIEW watermarks AS
    SELECT topic, part, min(first_off) AS first_off, max(next_off) AS next_off,
        make_timestamp(epoch_us(max(max_event)) - 1000 * (SELECT lateness_ms FROM settings)) AS watermark
    FROM position_ranges GROUP BY topic, part;

-- The version readers use: the one activated last, else the one whose groups were written last.
CREATE OR REPLACE VIEW serving_version AS
    SELECT coalesce(
        (SELECT arg_max(version, activation) FROM model_registry WHERE activation IS NOT NULL),
        (SELECT arg_max(model_version, created_at) FROM token_groups)) AS version;

CREATE OR REPLACE VIEW known_versions AS
    SELECT version AS model_version FROM model_registry
    UNION SELECT DISTINCT model_version FROM token_groups;

CREATE OR REPLACE VIEW user_history AS
    SELECT u.user_idx, u.user_id, u.topic, u.part,
        count(r.ts) AS interactions, min(r.h_ts) AS first_event, max(r.h_ts) AS newest_event,
        count(r.ts) FILTER (r.h_ts < w.watermark) AS before_watermark
    FROM users u
    LEFT JOIN (SELECT user_idx, ts, h_ts FROM rows_all WHERE in_history) r ON r.user_idx = u.user_idx
    LEFT JOIN watermarks w ON w.topic = u.topic AND w.part = u.part
    GROUP BY u.user_idx, u.user_id, u.topic, u.part;

CREATE OR REPLACE VIEW group_sums AS
    SELECT user_idx, model_version, count(*) AS groups, max(segment) + 1 AS segments,
        sum(bytes)::BIGINT AS bytes, sum(n_items)::BIGINT AS covered,
        min(first_h_ts) AS first_from, arg_min(last_h_ts, segment) AS first_to,
        arg_max(first_h_ts, segment) AS last_from, max(last_h_ts) AS covered_through,
        max(created_at) AS refreshed_at
    FROM token_groups GROUP BY user_idx, model_version;

-- ---- for people ----------------------------------------------------------------------------------

CREATE OR REPLACE VIEW interactions AS
    SELECT u.user_id, i.item_id, r.*
    FROM rows_all r
    LEFT JOIN users u ON u.user_idx = r.user_idx
    LEFT JOIN items i ON i.item_idx = r.item_idx;

CREATE OR REPLACE VIEW history AS SELECT * FROM interactions WHERE in_history;

CREATE OR REPLACE VIEW counters AS
    SELECT u.user_id, i.item_id, c.*
    FROM (
        SELECT user_idx, item_idx, fsum(n) AS n, fsum(s7) AS s7, fsum(s30) AS s30, fsum(s90) AS s90,
            fsum(s365) AS s365, max(last_ts) AS last_ts
        FROM (
            SELECT user_idx, item_idx, n, s7, s30, s90, s365, last_ts FROM counter_runs
            UNION ALL
            SELECT user_idx, item_idx, n, s7, s30, s90, s365, ts FROM counter_terms WHERE hot
        ) GROUP BY user_idx, item_idx
    ) c
    LEFT JOIN users u ON u.user_idx = c.user_idx
    LEFT JOIN items i ON i.item_idx = c.item_idx;

-- One row per user and model version: what its tokens cover.
CREATE OR REPLACE VIEW user_token_state AS
    SELECT h.user_id, g.model_version, g.groups, g.segments, g.covered AS interactions, g.bytes,
        g.first_from, g.first_to, g.last_from, g.covered_through,
        h.newest_event, epoch(h.newest_event - g.covered_through) AS age_s, g.refreshed_at
    FROM group_sums g JOIN user_history h ON h.user_idx = g.user_idx
    ORDER BY h.user_id, g.model_version;

-- One row per user and known model version, users without tokens included: what is missing.
CREATE OR REPLACE VIEW token_staleness AS
    SELECT h.user_id, v.model_version, h.interactions,
        coalesce(g.groups, 0) AS groups, coalesce(g.covered, 0) AS covered,
        h.interactions - coalesce(g.covered, 0) AS uncovered,
        greatest(h.before_watermark - s.r_min, 0) // s.segment_len AS due,
        greatest(greatest(h.before_watermark - s.r_min, 0) // s.segment_len - coalesce(g.groups, 0), 0)
            AS missing,
        h.newest_event, g.covered_through,
        epoch(h.newest_event - g.covered_through) AS age_s
    FROM user_history h
    CROSS JOIN settings s
    LEFT JOIN known_versions v ON true
    LEFT JOIN group_sums g ON g.user_idx = h.user_idx AND g.model_version = v.model_version
    ORDER BY h.user_id, v.model_version;

-- Every interaction of a user in history order, and what covers it for the serving version.
CREATE OR REPLACE VIEW user_timeline AS
    WITH ordered AS (
        SELECT u.user_id, r.*,
            row_number() OVER (PARTITION BY u.user_id
                ORDER BY h_ts, h_seq, h_part, h_off, displaced, off, r.topic) - 1 AS position,
            sum(in_history::INTEGER) OVER (PARTITION BY u.user_id
                ORDER BY h_ts, h_seq, h_part, h_off, displaced, off, r.topic
                ROWS UNBOUNDED PRECEDING)::BIGINT - 1 AS history_ordinal
        FROM rows_all r JOIN users u ON u.user_idx = r.user_idx
    ), placed AS (
        SELECT *, CASE WHEN in_history THEN history_ordinal END AS ordinal FROM ordered
    )
    SELECT p.user_id, p.position, p.ordinal, p.ts, p.seq, p.event_type, i.item_id, i.text, p.value, p.weight,
        p.in_history, p.scores, p.duplicate, p.displaced, p.late, p.session_id, p.event_id,
        g.segment, g.model_version,
        CASE WHEN NOT p.in_history THEN 'not in history'
             WHEN g.segment IS NOT NULL THEN 'segment ' || g.segment
             ELSE 'recent' END AS covered_by,
        p.topic, p.part, p.off
    FROM placed p
    LEFT JOIN items i ON i.item_idx = p.item_idx
    LEFT JOIN (
        SELECT user_idx, segment, model_version FROM token_groups
        WHERE model_version = (SELECT version FROM serving_version)
    ) g ON g.user_idx = p.user_idx AND g.segment = p.ordinal // (SELECT segment_len FROM settings)
    ORDER BY p.user_id, p.position;

-- One row per partition: what was read, what was scored, how far event time came.
CREATE OR REPLACE VIEW ingest_lag AS
    SELECT w.topic, w.part, w.next_off, s.next_off AS scored_off, w.watermark,
        w.next_off - coalesce(s.next_off, w.first_off) AS behind,
        w.next_off = coalesce(s.next_off, w.first_off) AS idle,
        t.records, t.interactions, t.dead, t.items, t.late, t.duplicates, t.displaced, t.last_read
    FROM watermarks w
    JOIN (
        SELECT topic, part, sum(records)::BIGINT AS records, sum(interactions)::BIGINT AS interactions,
            sum(dead)::BIGINT AS dead, sum(items)::BIGINT AS items, sum(late)::BIGINT AS late,
            sum(duplicates)::BIGINT AS duplicates, sum(displaced)::BIGINT AS displaced, max(read_at) AS last_read
        FROM position_ranges GROUP BY topic, part
    ) t ON t.topic = w.topic AND t.part = w.part
    LEFT JOIN scored_positions s ON s.topic = w.topic AND s.part = w.part
    ORDER BY w.topic, w.part;

-- One row per model version: the share of users and of interactions its tokens cover.
CREATE OR REPLACE VIEW coverage AS
    SELECT v.model_version, coalesce(v.model_version = (SELECT version FROM serving_version), false) AS serving,
        count(*) FILTER (h.interactions > 0) AS users,
        count(g.groups) AS users_covered,
        count(g.groups) / nullif(count(*) FILTER (h.interactions > 0), 0) AS share_users,
        sum(h.interactions)::BIGINT AS interactions,
        coalesce(sum(g.covered), 0)::BIGINT AS interactions_covered,
        coalesce(sum(g.covered), 0) / nullif(sum(h.interactions), 0) AS share_interactions,
        coalesce(sum(g.groups), 0)::BIGINT AS groups, coalesce(sum(g.bytes), 0)::BIGINT AS bytes
    FROM known_versions v CROSS JOIN user_history h
    LEFT JOIN group_sums g ON g.user_idx = h.user_idx AND g.model_version = v.model_version
    GROUP BY v.model_version
    ORDER BY v.model_version;

-- Bad records at a glance, one row per partition and reason, and how many were produced again.
CREATE OR REPLACE VIEW dead_letter_counts AS
    SELECT topic, part, reason, count(*) AS n, count(replayed_at) AS replayed,
        min(off) AS first_off, max(off) AS last_off, arg_max(detail, off) AS last_detail,
        max(ingested_at) AS last_at
    FROM dead_letters GROUP BY topic, part, reason ORDER BY n DESC, topic, part, reason;
