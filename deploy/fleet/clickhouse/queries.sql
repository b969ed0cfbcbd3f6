-- Questions of a postmortem, across a fleet. Each takes the last day where time matters.

-- What was killed, the worst first?
SELECT namespace, coalesce(nullIf(owner, ''), pod) AS workload, container, comm, count() AS kills,
       uniq(node) AS nodes, max(time) AS last, anyLast(verdict) AS verdict
FROM oomtrace.kills
WHERE time > now() - INTERVAL 1 DAY
GROUP BY namespace, workload, container, comm
ORDER BY kills DESC, last DESC
LIMIT 50;

-- Which decisions killed several processes, and whose limit was it?
SELECT min(time) AS at, node, oom_id, count() AS victims, groupArray(comm) AS names,
       any(scope) AS scope, any(limit_path) AS limit_path
FROM oomtrace.kills
WHERE time > now() - INTERVAL 1 DAY
GROUP BY node, oom_id
HAVING victims > 1
ORDER BY victims DESC
LIMIT 50;

-- Where did a whole node run out of memory, and who died for it?
SELECT time, node, namespace, pod, comm, formatReadableSize(rss_bytes) AS held, trigger_comm, summary
FROM oomtrace.kills
WHERE scope IN ('node', 'kubepods') AND time > now() - INTERVAL 1 DAY
ORDER BY time;

-- Who died for somebody else's memory?
SELECT time, node, namespace, pod, container, comm, trigger_comm, flags, summary
FROM oomtrace.kills
WHERE hasAny(flags, ['bystander', 'trigger_in_another_pod']) AND time > now() - INTERVAL 1 DAY
ORDER BY time;

-- Which kills does Kubernetes never call OOMKilled? The container went on without one of its processes.
SELECT namespace, pod, container, comm, count() AS kills, max(time) AS last
FROM oomtrace.kills
WHERE has(flags, 'child_died') AND time > now() - INTERVAL 1 DAY
GROUP BY namespace, pod, container, comm
ORDER BY kills DESC;

-- Which limits are reached again and again?
SELECT namespace, coalesce(nullIf(owner, ''), pod) AS workload, container,
       formatReadableSize(limit_bytes) AS limit, count() AS kills,
       formatReadableSize(quantile(0.5)(rss_bytes)) AS held
FROM oomtrace.kills
WHERE verdict IN ('container_limit', 'pod_limit') AND time > now() - INTERVAL 7 DAY
GROUP BY namespace, workload, container, limit_bytes
HAVING kills >= 3
ORDER BY kills DESC;

-- How long do victims take to die, on which kernel? Which did not?
SELECT kernel, count() AS kills, countIf(state = 'stuck') AS stuck,
       quantiles(0.5, 0.99)(exit_latency_ns / 1e6) AS exit_ms
FROM oomtrace.kills
WHERE time > now() - INTERVAL 7 DAY
GROUP BY kernel
ORDER BY stuck DESC, kills DESC;

-- What else happened on that node, five minutes before and after each node that ran out of memory?
SELECT other.time, other.node, other.kind, JSONExtractString(other.event, 'pod', 'name') AS pod,
       JSONExtractString(other.event, 'message') AS message
FROM (SELECT DISTINCT node, time FROM oomtrace.kills WHERE scope = 'node') AS out_of_memory
JOIN (SELECT time, node, kind, event FROM oomtrace.events FINAL
      WHERE kind IN ('pod_eviction', 'userspace_kill', 'loss')) AS other ON other.node = out_of_memory.node
WHERE abs(dateDiff('second', other.time, out_of_memory.time)) <= 300
ORDER BY other.time;

-- What is missing: what was lost, kills that the kernel counted and nobody saw, nodes gone silent?
SELECT node, max(time) AS last_heard,
       sum(JSONExtractUInt(event, 'lost')) AS lost_records,
       argMax(JSONExtractInt(event, 'reconciliation', 'unaccounted'), time) AS unaccounted_kills,
       last_heard < now() - INTERVAL 10 MINUTE
           AND argMax(JSONExtractString(event, 'phase'), time) != 'stop' AS silent
FROM oomtrace.events FINAL
WHERE kind IN ('status', 'loss')
GROUP BY node
HAVING lost_records > 0 OR unaccounted_kills > 0 OR silent
ORDER BY silent DESC, unaccounted_kills DESC;

-- How many records arrived more than once?
SELECT count() - uniqExact(kind, event_id) AS again, count() AS received FROM oomtrace.events;
