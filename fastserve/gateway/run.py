"""run: a gateway in this process, at a port that is held before it starts."""

from __future__ import annotations

import contextlib
import logging

from fastapi import FastAPI

from fastserve.gateway.core import Core
from fastserve.gateway.sending import NONE_YET
from fastserve.server.http import logs
from fastserve.server.http.listener import bind

LISTED = 8
"""Models that are named at the start."""

log = logging.getLogger("fastserve.gateway")


def run(gateway: Core, app: FastAPI) -> None:
    """Serves until SIGTERM or Ctrl-C, then drains. Raises StartError."""
    from fastserve.server.http.process import serve

    config = gateway.config
    logs.set_up(config.log_level, config.log_format)
    for warning in config.strays():
        log.warning(warning)
    lines = beginning(gateway)
    with contextlib.ExitStack() as held:
        listener = held.enter_context(bind(config.host, config.port))
        also = []
        for setting, what in (("page_port", "page"), ("manager_port", "model manager")):
            port = getattr(config, setting)
            if port is not None:
                also.append(held.enter_context(bind(config.host, port, f"--{setting.replace('_', '-')}")))
                lines.append(f"{what} at port {also[-1].getsockname()[1]} too")
        serve(app, gateway, listener, lines, also)


def beginning(gateway: Core) -> list[str]:
    """What is behind it, a line each."""
    count = len(gateway.upstreams)
    first = f"gateway of {count} upstream{'s' * (count != 1)}, router {gateway.config.router}"
    if all(part.name != "models" for part in gateway.parts):
        return [first] if count else [first, NONE_YET]
    names = list(gateway.upstreams.offered)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return [first, f"models that are loaded when a request names them: {', '.join(names[:LISTED]) or 'none yet'}{more}"]
