"""Monitoring, read-only: monitor (routes), stats, metrics (Prometheus), live (the dashboard's SSE stream), load
(GET /load), totals, alerts.
"""
