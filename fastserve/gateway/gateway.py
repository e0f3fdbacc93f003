"""Gateway: the object. `Gateway(upstream=["http://127.0.0.1:8001"]).run()`."""

from __future__ import annotations

from typing import Any

from fastserve.gateway.app import create_app
from fastserve.gateway.config.settings import GatewayConfig
from fastserve.gateway.core import Answer, Core
from fastserve.gateway.run import run

__all__ = ["Answer", "Gateway"]


class Gateway(Core):
    """config, or settings as keywords (GatewayConfig's fields). app: FastAPI's, for endpoints of one's own before
    run(); its parts and stages are made with it. Raises ValueError.
    """

    def __init__(self, config: GatewayConfig | None = None, **settings: Any) -> None:
        if config is not None and settings:
            raise ValueError("give a GatewayConfig or settings, not both")
        super().__init__(config or GatewayConfig(**settings))
        self.app = create_app(self)

    def run(self) -> None:
        """Serves until SIGTERM or Ctrl-C, then drains. Raises StartError."""
        run(self, self.app)
