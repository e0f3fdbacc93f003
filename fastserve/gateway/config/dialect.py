"""GATEWAY: how the gateway's settings are written in the environment and in files (the groups of other servers)."""

from __future__ import annotations

from fastserve.server.config.dialect import HTTP_FIXED, HTTP_KEYS, HTTP_NEEDS, HTTP_SWITCHES, Dialect, Tree

MODEL_SERVERS = "it is for `fastserve serve`, a model server"

TREE = Tree(
    keys=HTTP_KEYS | {
        "load_balancing.strategy": "router",
        "load_balancing.instances": "upstream",
        "load_balancing.max_retries": "max_retries",
        "load_balancing.health_check_interval": "health_interval",
        "health_check.interval": "health_interval",
        "health_check.timeout": "health_timeout",
        "health_check.retries": "health_retries",
        "caching.cache_type": "cache",
        "caching.cache_size": "cache_size",
        "caching.ttl_seconds": "cache_ttl",
    },
    switches=HTTP_SWITCHES | {
        "load_balancing.enabled": "",
        "health_check.enabled": "health_check",
        "caching.enabled": "",
    },
    fixed=HTTP_FIXED | {
        "workers": (1, "one process holds all connections; for more, run several gateways behind a load balancer"),
    },
    idle=dict.fromkeys(("backend_type", "pytorch.", "onnx.", "vllm.", "batching.", "validation."), MODEL_SERVERS),
    needs=HTTP_NEEDS | {"caching.enabled": ("cache",)},
)  # fmt: skip

GATEWAY = Dialect(
    program="the gateway",
    prefix="FASTSERVE_GATEWAY_",
    tree=TREE,
    aliases={
        "upstreams": "upstream",
        "api_keys": "api_key",
        "strategy": "router",
        "sleep_idle_seconds": "idle_seconds",
    },
    imports=("router",),
)
