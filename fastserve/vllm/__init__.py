"""Our Scheduler inside vLLM: what `vllm serve --scheduler-cls fastserve.vllm.scheduler` names.

Imports nothing of vLLM until it is called, in vLLM's own process. Read: adapter (a step, and what vLLM tells), driver
(our Scheduler's order of events, and what vLLM made of a plan) with pool, places (carrying a plan out) with curtain
(vLLM's waiting queue), request (a job of each request), build (what is made of vLLM's configuration), records, refuse.
Beside them settings, which `fastserve vllm` and others read, and on the way to /metrics metrics, stat_logger, exposed.
"""

from __future__ import annotations

from typing import Any


def scheduler(*args: Any, **kwargs: Any) -> Any:
    """Makes vLLM's scheduler with ours in it, synchronous or asynchronous as vLLM's settings say."""
    from fastserve.vllm.adapter import make  # type: ignore[import-not-found, unused-ignore]

    return make(*args, **kwargs)
