"""SERVER: other names of the model server's settings, and how they are written in the environment and in files."""

from __future__ import annotations

from typing import Any

from fastserve.backends.options import OTHER_NAMES as BACKEND_NAMES
from fastserve.sched.config import OTHER_NAMES
from fastserve.server.config.dialect import (
    HTTP_FIXED,
    HTTP_KEYS,
    HTTP_NEEDS,
    HTTP_SWITCHES,
    Dialect,
    Tree,
    http_converted,
)

ALIASES: dict[str, str] = (
    OTHER_NAMES
    | BACKEND_NAMES
    | {
        "model_name": "model",
        "max_length": "max_model_len",
        "num_priority_queues": "num_queues",
        "api_keys": "api_key",
        "torch_dtype": "dtype",
        "cache_size": "kv_cache_gib",
    }
)
"""Other name -> field; on the command line, in the environment, in files and in Python alike."""


def converted(name: str, value: Any) -> Any:
    """--cache-size is in MiB; lists of providers are one text."""
    if name == "onnx.providers" and isinstance(value, list):
        return ",".join(map(str, value))
    if name != "cache_size" or value is None:
        return http_converted(name, value)
    try:
        return float(value) / 1024
    except (TypeError, ValueError):
        raise ValueError(f"cache_size={value!r} is not a number of MiB") from None


PLAIN: dict[str, str] = {
    "HF_MODEL": "model",
    "HF_TOKEN": "hf_token",
    "MAX_BATCH": "max_batch",
    "MAX_NEW_TOKENS": "max_new_tokens",
    "SEED": "seed",
    "TEMPERATURE": "temperature",
    "TOP_K": "top_k",
    "TOP_P": "top_p",
}
"""Environment variables without our prefix."""

OTHERS = (
    "DOTENV",
    "CACHE",
    "DEPLOY_TORCH",
    "WORKER_KEY",
    "COMPILED",
    "EXAMPLES",
    "NATIVE",
    "SCALE",
    "TRACE",
    "TRACES",
    "GATEWAY_",
)
"""Variables with our prefix that other parts of the package and its tests read."""

GATEWAYS = "it is for `fastserve gateway`, which stands in front of servers"

TREE = Tree(
    keys=HTTP_KEYS | {
        "pytorch.device": "device",
        "pytorch.torch_dtype": "dtype",
        "batching.max_batch_size": "max_batch",
        "validation.max_prompt_length": "max_prompt_length",
        "validation.max_tokens": "max_tokens",
        "validation.content_filtering": "content_filter",
        "onnx.providers": "providers",
        "onnx.optimization_level": "graph_optimization",
        "onnx.intra_op_num_threads": "threads",
        "monitoring.alert_thresholds.error_rate": "alert_error_rate",
        "monitoring.alert_thresholds.latency_p99": "alert_latency_p99",
        "monitoring.alert_thresholds.gpu_memory_usage": "alert_gpu_memory_usage",
    },
    switches=HTTP_SWITCHES,
    fixed=HTTP_FIXED | {
        "pytorch.compile_model": (
            False, "compiling the model with torch.compile does not exist here yet; set it to false"
        ),
        "batching.enabled": (True, "requests are always batched; give batching.max_batch_size: 1 for one at a time"),
        "validation.allowed_characters": (
            "unicode", "prompts may have all of Unicode; to refuse some, give validation.content_filtering"
        ),
    },
    idle={
        "batching.adaptive_batching": "the batch is made anew at every iteration",
        "pytorch.optimization_level": "PyTorch has no such level",
        "onnx.inter_op_num_threads": "one graph runs at a time",
        "vllm.": "vLLM is started by `fastserve vllm MODEL`, which takes vLLM's own flags behind --",
        "batching.batch_timeout_ms": "continuous batching does not wait to fill a batch",
        "load_balancing.": GATEWAYS,
        "health_check.": GATEWAYS,
        "caching.": GATEWAYS,
    },
    needs=HTTP_NEEDS,
    only={"onnx.": ("backend", "onnx")},
)  # fmt: skip

SERVER = Dialect(
    program="the server",
    prefix="FASTSERVE_",
    tree=TREE,
    aliases=ALIASES,
    plain=PLAIN,
    others=OTHERS,
    imports=("policy", "backend", "predictor", "observer", "content_filter"),
    idle={"SCHEDULE_TICK_MS": "the scheduler decides at every iteration, and has no tick"},
    code=("chat_template",),
    convert=converted,
)
