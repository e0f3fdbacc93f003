"""The gateway: many servers behind one address. Gateway(config).run() serves; gateway.app takes endpoints of your own.

Read: app (what it is made of, and how a part of it plugs in), call (one request on its way), core and gateway (the
object), upstream and upstreams (the servers), proxy (there and back); api/ (routes), config/ (settings). Parts:
models/, cache/, conversations/, page/.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastserve.gateway.config.settings import GatewayConfig
    from fastserve.gateway.gateway import Answer, Gateway

__all__ = ["Answer", "Gateway", "GatewayConfig"]


def __getattr__(name: str) -> Any:
    if name == "GatewayConfig":
        from fastserve.gateway.config.settings import GatewayConfig

        return GatewayConfig
    if name in ("Gateway", "Answer"):
        from fastserve.gateway import gateway

        return getattr(gateway, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
