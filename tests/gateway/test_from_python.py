"""from fastserve.gateway import Gateway: generate(), stream(), own endpoints; and the example of docs/gateway.md."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastserve.bench.stub import Behaviour
from fastserve.gateway import Gateway
from fastserve.server.api.errors import ApiError
from tests.gateway.conftest import FAST, PROMPT, Request, live, odd, reply, stub
from tests.gateway.test_hostile_upstreams import dying
from tests.gateway.test_kill import free_port

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[2]


async def test_generate_and_stream_without_a_server() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        body = b'{"choices":[{"index":0,"text":"abc","finish_reason":"stop"}],"usage":{"completion_tokens":3}}'
        if request.path.startswith("/v1/chat"):
            body = body.replace(b'"text":"abc"', b'"message":{"role":"assistant","content":"hi"}')
        reply(writer, 200, body)

    async with odd(script) as upstream, Gateway(upstream=upstream.url, **FAST) as gateway:
        answer = await gateway.generate("stub", "Hi", max_tokens=3, temperature=0)
        assert (answer.text, answer.finish_reason, answer.usage) == ("abc", "stop", {"completion_tokens": 3})
        chat = await gateway.generate("stub", [{"role": "user", "content": "Hi"}])
        assert chat.text == "hi"
        with pytest.raises(ApiError, match="not served here; there is stub") as caught:
            await gateway.generate("other", "Hi")
        assert caught.value.status == 404
    async with stub(Behaviour(tpot=0.001)) as (url, seen), Gateway(upstream=url, **FAST) as gateway:
        assert [text async for text in gateway.stream("stub", "Hi", max_tokens=5)] == ["x"] * 5
        messages = [{"role": "user", "content": "Hi"}]
        assert "".join([text async for text in gateway.stream("stub", messages, max_tokens=4)]) == "xxxx"
        assert seen.seen[0].body["stream"] is True


async def test_a_stream_that_breaks_off_raises_and_one_that_is_left_is_cancelled() -> None:
    script = dying(b'data: {"choices":[{"index":0,"text":"a"}]}\n\n')
    async with odd(script) as upstream, Gateway(upstream=upstream.url, **FAST) as gateway:

        async def read() -> list[str]:
            return [text async for text in gateway.stream("stub", "Hi")]

        first = await anext(aiter(gateway.stream("stub", "Hi")))
        assert first == "a"
        with pytest.raises(ApiError, match="broke off"):
            await read()
    async with stub(Behaviour(tpot=0.05, tokens=1000)) as (url, seen), Gateway(upstream=url, **FAST) as gateway:
        stream: Any = gateway.stream("stub", "Hi")
        async for _ in stream:
            break
        await stream.aclose()
        (upstream_,) = gateway.upstreams
        assert upstream_.outstanding == 0 and gateway.load == 0
        async with asyncio.timeout(5):
            while not seen.seen[0].left:
                await asyncio.sleep(0.01)


async def test_endpoints_of_ones_own_and_stages() -> None:
    def make(gateway: Gateway) -> None:
        @gateway.app.get("/mine/{name}")
        async def mine(name: str) -> dict[str, str]:
            pieces = [text async for text in gateway.stream("stub", name, max_tokens=3)]
            return {"text": "".join(pieces)}

        async def loud(call: Any, following: Any) -> Any:
            call.rewrite(prompt=call.fields["prompt"].upper())
            response = await following(call)
            inner = response.body_iterator

            async def wrapped() -> AsyncIterator[bytes]:
                async for part in inner:
                    yield part.replace(b'"x"', b'"y"')

            response.body_iterator = wrapped()
            return response

        gateway.stages.append(loud)

    async with stub() as (url, seen), live(url, make=make) as gateway:
        assert (await gateway.client.get("/mine/abc")).json() == {"text": "yyy"}
        assert seen.seen[0].body["prompt"] == "ABC"
        streamed = await gateway.post("/v1/completions", {**PROMPT, "stream": True})
        assert streamed.text.count('"y"') == 4 and streamed.text.endswith("[DONE]\n\n")
        await gateway.until(lambda: gateway.gateway.load == 0)


def test_the_example_answers(tmp_path: Path) -> None:
    own, behind = free_port(), free_port()
    flags = [sys.executable, "examples/gateway_endpoints.py", "--port", str(own), "--upstream", f"127.0.0.1:{behind}"]
    example = subprocess.Popen(flags, cwd=ROOT)
    server = None
    try:
        time.sleep(0.5)  # it waits for its model server
        command = [sys.executable, str(ROOT / "tests/server/scripted_server.py"), "100", "--port", str(behind)]
        server = subprocess.Popen([*command, "--state-dir", str(tmp_path)], cwd=ROOT)
        with httpx.Client(base_url=f"http://127.0.0.1:{own}", timeout=60) as client:
            for _ in range(600):
                try:
                    client.get("/ping")
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            assert client.get("/health/ready").json()["ready"] is True  # at once: it has waited
            answer = client.post("/ask/llama", json={"question": "What is a llama?", "max_tokens": 8})
            assert answer.status_code == 200 and answer.json()["tokens"] == 8
            assert client.post("/ask/cow", json={"question": "?"}).status_code == 404
            assert len(client.get("/tell/llama").text) > 8
            assert client.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 2}).status_code == 200
    finally:
        for process in (example, server):
            if process is not None:
                process.terminate()
                process.wait(30)
