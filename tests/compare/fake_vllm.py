"""A stand-in for a Python that has vLLM: `fake_vllm.py -m fastserve vllm ...` and vLLM's own server by
its module are the bench client's stub with vLLM's /version and /metrics.

Its arguments and each request's body are appended to the file that FAKE_VLLM_LOG names, a JSON line each. FAKE_VLLM
names what goes wrong: `unready`, `dies` (with a last line).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from fastserve.bench.stub import Behaviour, Stub


def note(what: dict[str, Any]) -> None:
    with open(os.environ["FAKE_VLLM_LOG"], "a", encoding="utf-8") as file:
        print(json.dumps(what), file=file)


@dataclass(slots=True)
class Vllm(Stub):
    """ours: our Scheduler is inside, which counts two preemptions a request where vLLM itself counts one."""

    ours: bool = False

    async def _request(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        path = head.split(b" ", 2)[1]
        if path not in (b"/metrics", b"/version"):
            return await Stub._request(self, head, reader, writer)
        text = json.dumps({"version": "0.32.0"}) if path == b"/version" else self._metrics()
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())
        await writer.drain()
        return True

    def _metrics(self) -> str:
        lines = [
            "# TYPE vllm:num_preemptions_total counter",
            f'vllm:num_preemptions_total{{engine="0",model_name="m"}} {float(len(self.seen))}',
        ]
        if self.ours:
            lines += [
                f'fastserve_num_preemptions_total{{engine="0",policy="mlfq"}} {len(self.seen)}.0',
                f'fastserve_num_preemptions_total{{engine="1",policy="fcfs"}} {len(self.seen)}.0',
                'fastserve_num_preemptions_created{engine="1",policy="fcfs"} 1.8e9',
            ]
        return "\n".join([*lines, ""])


def main() -> None:
    assert sys.argv[1] == "-m"
    module, *arguments = sys.argv[2:]
    note({"module": module, "arguments": arguments, "path": os.environ.get("PYTHONPATH", "")})
    wrong = os.environ.get("FAKE_VLLM")
    if wrong == "unready":
        time.sleep(600)
    if wrong == "dies":
        sys.exit("ValueError: 4711 does not fit")

    def answer(number: int, body: dict[str, Any]) -> Behaviour:
        note({"body": body})
        return Behaviour(ttft=0.002, tpot=0.0005)

    stub = Vllm(answer, owned_by="vllm", max_model_len=512, ours=module == "fastserve")
    port = int(arguments[arguments.index("--port") + 1])

    async def serve() -> None:
        async with await stub.start(port=port) as server:
            await server.serve_forever()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
