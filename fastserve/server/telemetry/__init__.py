"""Monitoring, read-only: monitor (routes), stats, metrics (Prometheus), live (the dashboard's SSE stream), totals,
alerts.
"""
