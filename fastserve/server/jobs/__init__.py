"""Every request is a job: jobs (in memory), durable (retry and resume of durable jobs), store (SQLite)."""
