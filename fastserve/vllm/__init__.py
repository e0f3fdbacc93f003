"""Our Scheduler inside vLLM: what `vllm serve --scheduler-cls fastserve.vllm.scheduler` names.

Imports nothing of vLLM until it is called, in vLLM's own process.
"""

from __future__ import annotations

from typing import Any


def scheduler(*args: Any, **kwargs: Any) -> Any:
    """Makes vLLM's scheduler with ours in it, synchronous or asynchronous as vLLM's settings say."""
    from fastserve.vllm.adapter import make  # type: ignore[import-not-found, unused-ignore]

    return make(*args, **kwargs)
