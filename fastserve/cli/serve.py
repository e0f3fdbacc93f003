"""`fastserve serve`: the HTTP server."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from fastserve.backends.options import MODELS, OPTIONS, SECRETS
from fastserve.cli import setting_flags
from fastserve.importing import extra
from fastserve.named_models import at_hand

if TYPE_CHECKING:
    from fastserve.server.config.settings import FastServeConfig

MANY = tuple(name for name, option in OPTIONS.items() if option.kind is tuple)
REPEATED = dict.fromkeys((*setting_flags.REPEATED, "observer", *MANY), "TEXT") | {"set": "KEY=VALUE"}
GROUPS = {
    "model": "model",
    "policy": "scheduler",
    **setting_flags.HTTP_GROUPS,
    "kv_cache_gib": "scheduler",
    "queue": "a queue across machines",
    "workers": "server",
    "max_new_tokens": "request defaults (native routes, unless --defaults-for all)",
    "share_prefixes": "authentication and limits",
    "alert_error_rate": "monitoring",
}
INSTEAD = {
    **setting_flags.HTTP_INSTEAD,
    "hf_token": "leave the flag out and set HF_TOKEN in the environment",
    **{name: f"leave the flag out and set FASTSERVE_{name.upper()} in the environment" for name in SECRETS},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of FastServeConfig, under its own name with dashes."""
    try:
        from fastserve.server.config.settings import FastServeConfig
    except ModuleNotFoundError as error:
        sys.exit(f"fastserve serve: error: {error.name} is not installed; {extra('server')}")
    groups = setting_flags.add_flags(
        parser, FastServeConfig, GROUPS, REPEATED, {"model": at_hand()}, hidden=("cache_size",)
    )
    groups["scheduler"].add_argument(
        "--cache-size",
        metavar="MIB",
        default=argparse.SUPPRESS,
        help="device KV pool in MiB, instead of --kv-cache-gib",
    )


def run(args: argparse.Namespace) -> int:
    """Serves until stopped. Returns 0 after a clean shutdown, 1 if model or port fail, 2 for invalid settings."""
    from fastserve.server.config.settings import FastServeConfig

    return setting_flags.run_with("serve", args, FastServeConfig, _settings, _serve, INSTEAD)


def _settings(given: dict[str, Any]) -> FastServeConfig:
    from fastserve.server.config.settings import FastServeConfig

    config = FastServeConfig(**given)
    if config.backend in MODELS and "model" not in config.model_fields_set:
        config = config.model_copy(update={"model": at_hand()})
    return config


def _serve(config: FastServeConfig) -> None:
    from fastserve.server.run import FastServeServer

    FastServeServer(config).run()
