"""serve: one of our apps in this process, at a port that is held already, until it is told to end."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI

from fastserve.server.config.addresses import is_local
from fastserve.server.http.http_protocol import bounded
from fastserve.server.http.http_server import GRACE_S, HttpServer
from fastserve.server.http.listener import cannot_listen
from fastserve.server.http.served import Served

log = logging.getLogger("fastserve.server")


def serve(
    app: FastAPI, served: Served, listener: socket.socket, lines: list[str], also: Sequence[socket.socket] = ()
) -> None:
    """Until SIGTERM or Ctrl-C, then drains. lines: said when it listens. also: ports where the same app is served.

    Raises StartError.
    """
    config = served.config
    port = listener.getsockname()[1]
    for each in (listener, *also):
        try:
            each.listen()
        except OSError as error:  # two processes may bind one port; the second one fails here
            raise cannot_listen(config.host, each.getsockname()[1], error) from error
    if not is_local(config.host) and not served.auth.on:
        log.warning(
            "anybody who reaches %s may use this server: set --api-key-file, or listen at 127.0.0.1", config.host
        )
    host = f"[{config.host}]" if ":" in config.host else config.host
    server = HttpServer(
        uvicorn.Config(
            app, http=bounded(config), ws="none", log_config=None, access_log=False, lifespan="on",
            proxy_headers=False, timeout_graceful_shutdown=GRACE_S,
        ),
        served,
        "\n".join(lines) + f"\nserving at http://{host}:{port} "
        f"(page /, documentation /docs, metrics {config.metrics_endpoint})",
    )  # fmt: skip
    gc.freeze()  # a full collection would walk all that is loaded, torch's objects among it: 0.2 s of no thread running
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener, *also]))
