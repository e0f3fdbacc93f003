"""StatLogger: the plug-in of vLLM that puts our names into its /metrics. Imported by vLLM's API processes alone."""

from __future__ import annotations

from typing import Any

from vllm.logger import init_logger
from vllm.v1.metrics.loggers import AggregateStatLoggerBase

from fastserve.vllm.exposed import Exposed
from fastserve.vllm.metrics import detach
from fastserve.vllm.settings import KEY

log = init_logger("vllm.fastserve")


class StatLogger(AggregateStatLoggerBase):  # type: ignore[misc]
    """Never raises: an exception in a stat logger ends every request of the API process."""

    def __init__(self, vllm_config: Any, engine_indexes: list[int]) -> None:
        ours = (vllm_config.additional_config or {}).get(KEY)
        self.exposed: Exposed | None = None
        if ours is not None:
            policy = str(ours.get("policy", "fcfs"))
            self.exposed = Exposed(str(vllm_config.model_config.served_model_name), policy, engine_indexes)

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        if scheduler_stats is None:
            return
        try:
            told = detach(scheduler_stats)
            if told and self.exposed is not None:
                self.exposed.update(told, engine_idx)
        except Exception:
            log.exception("fastserve: our metrics stop here")
            self.exposed = None

    def log_engine_initialized(self) -> None:
        pass
