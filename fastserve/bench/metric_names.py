"""Metric names, shared by command line and metrics. Imports nothing, so that --help needs no numpy."""

METRICS = ("ttft", "tpot", "itl", "e2el", "client_queue_time", "e2el_including_client_queue")
"""As `vllm bench serve` calls them."""

QUEUED = METRICS[4:]
"""Only with --max-concurrency, where requests wait in the client."""

GOODPUT = ("ttft", "tpot", "e2el")
"""Metrics that can have a limit."""
