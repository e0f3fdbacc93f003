"""Proxy: a call to one upstream and its answer back, byte for byte."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
from starlette.responses import Response, StreamingResponse

from fastserve.gateway.call import Call
from fastserve.gateway.upstream import Upstream

HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip
"""Headers of one connection alone (RFC 9110, 7.6.1)."""

NOT_SENT = HOP_BY_HOP | {
    "host", "content-length", "authorization", "cookie", "accept-encoding", "origin", "referer", "x-request-id",
}  # fmt: skip
"""Headers of a client that its upstream does not get: the gateway's own, and the client's key."""


class Proxy:
    """Event loop only; close() it."""

    def __init__(self, connect_timeout: float, silence_timeout: float) -> None:
        timeout = httpx.Timeout(silence_timeout, connect=connect_timeout)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=2.0)
        self.http = httpx.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False, trust_env=False)

    async def send(self, call: Call, upstream: Upstream) -> Response:
        """The answer as it begins. Raises httpx.HTTPError while there is none."""
        headers = [(name, value) for name, value in call.headers.items() if name not in NOT_SENT]
        headers.append(("x-request-id", call.request_id))
        headers.append(("accept-encoding", "identity"))
        if upstream.key is not None:
            headers.append(("authorization", f"Bearer {upstream.key.get_secret_value()}"))
        request = self.http.build_request("POST", upstream.url + call.path, headers=headers, content=call.body)
        answer = await self.http.send(request, stream=True)
        response = StreamingResponse(_parts(answer), answer.status_code)
        kept = [pair for pair in answer.headers.raw if pair[0].lower().decode("latin-1") not in HOP_BY_HOP]
        response.raw_headers = [(name.lower(), value) for name, value in kept]
        return response

    async def close(self) -> None:
        await self.http.aclose()


async def _parts(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()
