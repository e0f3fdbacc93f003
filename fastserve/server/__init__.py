"""The live engine behind HTTP: create_app(engine) makes the app, FastServeServer(config).run() the process."""

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
