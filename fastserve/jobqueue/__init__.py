"""Durable jobs across machines, through Celery and Redis: servers and gateways put them in, workers run them.

Read: states, record (one job as clients see it), scripts (what happens to it in Redis), jobs (JobQueue, what a server
or gateway uses), messages (Celery's part), attempt (one job's request to a server), runner, worker, keeper (what a
broker may lose).
"""
