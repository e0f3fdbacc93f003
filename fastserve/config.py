"""Old import path of the server's settings: see fastserve.server.config."""

from fastserve.server.config.settings import FastServeConfig, explain

__all__ = ["FastServeConfig", "explain"]
