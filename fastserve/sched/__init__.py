"""The brain: a sans-IO scheduler, standard library only. It is told what happened and when, and says what to do next.

Read in this order: job, policy (the page for authors), plan, config, scheduler; then choose, bounds, alarms and ranking
(who is in the batch, for how long, what rings, who is next), batching, kv and residency (shape of an iteration, blocks,
where KV lives), units, path, sharing, host_tier, draft and prefix (what prompts share, where that is cached), observer
(who may watch a run), and conformance/ (what `fastserve check` asks).
"""
