"""The HTTP server. create_app(engine) makes the FastAPI app; FastServeServer(config).run() runs it in this process.

Read: start, run (from the settings to a listening process); app, service. http/ (what any HTTP server of ours has: what
a request passes before it reaches a route), api/ (routes; token_bound: how long a text is at least), jobs/ (job store),
telemetry/ (metrics, stats, live feed), config/ (settings).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastserve.server.app import create_app
    from fastserve.server.run import FastServeServer

__all__ = ["FastServeServer", "create_app"]


def __getattr__(name: str) -> Any:
    if name == "create_app":
        from fastserve.server.app import create_app

        return create_app
    if name == "FastServeServer":
        from fastserve.server.run import FastServeServer

        return FastServeServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
