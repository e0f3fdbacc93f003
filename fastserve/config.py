"""The settings of the server under the name that scripts know: they live in fastserve.server.config."""

from fastserve.server.config.settings import FastServeConfig, explain

__all__ = ["FastServeConfig", "explain"]
