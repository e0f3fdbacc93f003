"""What our Scheduler cannot serve inside vLLM, and how that is said."""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger("vllm.fastserve")


def refuse_configuration(config: Any) -> None:
    """config: vLLM's. Raises ValueError with the reason, at the start."""
    model = config.model_config
    if config.parallel_config.pipeline_parallel_size > 1:
        raise ValueError(
            "fastserve: --pipeline-parallel-size above 1 is not supported: several steps are in flight, and one "
            "counter of steps stands for all decodes; use --tensor-parallel-size"
        )
    if config.scheduler_config.policy != "fcfs":
        raise ValueError(
            f"fastserve: leave --scheduling-policy at fcfs, not {config.scheduler_config.policy}: the order is that "
            f"of --policy, and priority is one of them"
        )
    if model.runner_type == "pooling":
        raise ValueError("fastserve: pooling models have no tokens to schedule; start vLLM without --scheduler-cls")
    if model.is_diffusion:
        raise ValueError("fastserve: diffusion models do not yield token by token; start vLLM without --scheduler-cls")
    if config.kv_transfer_config is not None:
        log.warning("fastserve was not tried with a KV connector (--kv-transfer-config)")


def refuse(scheduler: Any, request: Any, why: str) -> None:
    """Ends one request that vLLM has taken: its client gets an error with the next step's outputs."""
    log.error("request %s is refused: %s", request.request_id, why)
    errors = scheduler.grammar_compile_error_reqs
    if isinstance(errors, dict):  # from 0.33 on with a reason
        from vllm.outputs import RequestError

        errors[request.request_id] = RequestError(code="validation_error", message=why)
    else:
        errors.add(request.request_id)
