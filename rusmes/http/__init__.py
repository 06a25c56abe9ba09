"""What is served over HTTP.

What it is: metrics, health and the administration API, served by the supervisor; JMAP and the console, served by the workers.
What it is not: the place where any of those numbers or decisions are made; everything is handed in by `server`.

RFC 9110 (HTTP semantics), RFC 6750 (bearer tokens). Prometheus text format 0.0.4, OpenMetrics 1.0.

Map: `metrics` the exporter; `health` what /health /ready /live say; `admin` the administration API,
`answers` what its requests share, `queue` its part about the queue.
"""
