"""`fastserve gateway`: many servers behind one address."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from fastserve.cli import setting_flags
from fastserve.importing import MissingPackageError, extra

if TYPE_CHECKING:
    from fastserve.gateway.config.settings import GatewayConfig

REPEATED = dict.fromkeys(setting_flags.REPEATED, "TEXT") | {
    "upstream": "URL[,name=NAME][,weight=N][,key_env=VARIABLE][,model=NAME]",
    "router_set": "KEY=VALUE",
    "model_options": "KEY=VALUE",
    "admin_clients": "TEXT",
    "discover": "URL",
}
"""Settings that may be given more than once -> how a value is written. A part's own are to be named here too."""

GROUPS = {
    **setting_flags.HTTP_GROUPS, "upstream": "upstreams", "discover": "upstreams", "conversations": "conversations",
    "page_port": "page",
    "models": "models that come and go", "queue": "a queue across machines", "cache": "cache",
}  # fmt: skip
"""The first setting of a group of flags -> its heading. A part's own is to be named here too."""

INSTEAD = {
    **setting_flags.HTTP_INSTEAD,
    "upstream_key": "leave the flag out and set FASTSERVE_GATEWAY_UPSTREAM_KEY in the environment",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of GatewayConfig, under its own name with dashes."""
    try:
        from fastserve.gateway.config.settings import GatewayConfig
    except ModuleNotFoundError as error:
        sys.exit(f"fastserve gateway: error: {error.name} is not installed; {extra('gateway')}")
    setting_flags.add_flags(parser, GatewayConfig, GROUPS, REPEATED, {})


def run(args: argparse.Namespace) -> int:
    """Serves until stopped. Returns 0 after a clean shutdown, 1 if the start fails, 2 for invalid settings."""
    from fastserve.gateway.config.settings import GatewayConfig

    return setting_flags.run_with("gateway", args, GatewayConfig, _settings, _serve, INSTEAD)


def _settings(given: dict[str, Any]) -> GatewayConfig:
    from fastserve.gateway.config.settings import GatewayConfig

    return GatewayConfig(**given)


def _serve(config: GatewayConfig) -> None:
    from fastserve.atomic_files import OutputError
    from fastserve.server.http.listener import StartError

    try:
        from fastserve.gateway.gateway import Gateway

        gateway = Gateway(config)
    except ModuleNotFoundError as error:
        raise StartError(f"{error.name} is not installed; {extra('gateway')}") from error
    except (ValueError, OSError, OutputError, MissingPackageError) as error:
        raise StartError(str(error)) from error
    gateway.run()
