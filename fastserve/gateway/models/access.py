"""Who may load, download, unload and delete models by name. A request that needs a model loads it, whoever sends it."""

from __future__ import annotations

from fastapi import Request

from fastserve.gateway.core import gateway_of
from fastserve.server.api.errors import ApiError


def check_manager(request: Request) -> None:
    """Raises ApiError 403. Without tokens it is everybody who reaches the gateway."""
    gateway = gateway_of(request)
    if gateway.auth.on and request.scope["state"].get("client") not in gateway.config.admin_clients:
        raise ApiError(403, "models are every client's: with tokens only those of --admin-clients may manage them")
