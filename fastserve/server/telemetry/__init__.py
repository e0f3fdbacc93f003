"""What the server tells of itself: monitor (the routes), stats, metrics (Prometheus), live (the feed of the page),
totals, alerts, logs. Nothing here changes anything.
"""
