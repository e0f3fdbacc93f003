"""Every request is a job: jobs (what is remembered), durable (on disk before its client hears), store (the file)."""
