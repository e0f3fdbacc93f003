"""Every request is a job: jobs (in memory), durable (retry and resume of durable jobs), store (SQLite), rows and
database (what is read of a file, checked).
"""
