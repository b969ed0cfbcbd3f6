-- One row for each record of oomtrace, as it came. The other columns are read out of it.
-- Insert NDJSON with: INSERT INTO oomtrace.events FORMAT JSONAsString
-- Records that arrive twice have the same key, and are one row once parts are merged, or with FINAL.
CREATE DATABASE IF NOT EXISTS oomtrace;

CREATE TABLE IF NOT EXISTS oomtrace.events
(
    event String CODEC(ZSTD(3)),
    kind LowCardinality(String) MATERIALIZED JSONExtractString(event, 'kind'),
    -- 1970 where the time is unknown, as of kills from a log without dates.
    time DateTime64(9, 'UTC') MATERIALIZED fromUnixTimestamp64Nano(toInt64OrZero(JSONExtractString(event, 'time_unix_ns')), 'UTC'),
    event_id String MATERIALIZED JSONExtractString(event, 'event_id'),
    oom_id String MATERIALIZED JSONExtractString(event, 'oom_id'),
    node LowCardinality(String) MATERIALIZED if(
        JSONExtractString(event, 'node', 'k8s_node_name') != '',
        JSONExtractString(event, 'node', 'k8s_node_name'),
        JSONExtractString(event, 'node', 'hostname')),
    kernel LowCardinality(String) MATERIALIZED JSONExtractString(event, 'node', 'kernel')
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (kind, time, event_id);

-- A row for each victim, with what became known of its pod later, and of its end.
CREATE VIEW IF NOT EXISTS oomtrace.kills AS
WITH
    late AS
    (
        SELECT event_id, any(events.event) AS told
        FROM oomtrace.events
        WHERE kind = 'enrichment'
        GROUP BY event_id
    ),
    ends AS
    (
        SELECT JSONExtractString(event, 'victim_event_id') AS event_id, argMax(events.event, events.time) AS last
        FROM oomtrace.events
        WHERE kind = 'oom_outcome'
        GROUP BY event_id
    )
SELECT
    kill.time AS time,
    kill.node AS node,
    kill.kernel AS kernel,
    kill.event_id AS event_id,
    kill.oom_id AS oom_id,
    if(JSONExtractString(kill.event, 'victim', 'pod', 'name') != '', kill.event, late.told) AS known,
    JSONExtractString(known, 'victim', 'pod', 'namespace') AS namespace,
    JSONExtractString(known, 'victim', 'pod', 'name') AS pod,
    JSONExtractString(known, 'victim', 'pod', 'owner', 'name') AS owner,
    JSONExtractString(known, 'victim', 'container', 'name') AS container,
    JSONExtractString(kill.event, 'victim', 'pod', 'qos_class') AS qos_class,
    JSONExtractString(kill.event, 'victim', 'comm') AS comm,
    JSONExtractInt(kill.event, 'victim', 'pid') AS pid,
    JSONExtractString(kill.event, 'victim', 'role') AS role,
    JSONExtractInt(kill.event, 'victim', 'oom_score_adj') AS oom_score_adj,
    JSONExtractUInt(kill.event, 'victim', 'memory', 'anon_rss_bytes')
        + JSONExtractUInt(kill.event, 'victim', 'memory', 'file_rss_bytes')
        + JSONExtractUInt(kill.event, 'victim', 'memory', 'shmem_rss_bytes') AS rss_bytes,
    JSONExtractString(kill.event, 'oom', 'scope') AS scope,
    JSONExtractString(kill.event, 'oom', 'memcg', 'path') AS limit_path,
    JSONExtractUInt(kill.event, 'oom', 'memcg', 'limit_bytes') AS limit_bytes,
    JSONExtractString(kill.event, 'trigger', 'comm') AS trigger_comm,
    JSONExtractString(kill.event, 'trigger', 'pod', 'uid') AS trigger_pod_uid,
    JSONExtractString(kill.event, 'verdict', 'code') AS verdict,
    JSONExtract(kill.event, 'verdict', 'flags', 'Array(String)') AS flags,
    JSONExtractString(kill.event, 'verdict', 'summary') AS summary,
    JSONExtractString(ends.last, 'state') AS state,
    JSONExtract(ends.last, 'exit_latency_ns', 'Nullable(UInt64)') AS exit_latency_ns
FROM
(
    SELECT time, node, kernel, event_id, oom_id, event
    FROM oomtrace.events FINAL
    WHERE kind = 'oom_kill'
) AS kill
LEFT JOIN late ON late.event_id = kill.event_id
LEFT JOIN ends ON ends.event_id = kill.event_id;
