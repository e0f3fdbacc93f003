"""Soak test of the server: many clients stream, disconnect at random and send invalid requests; then a check for leaks.

    python scripts/soak_server.py --seconds 300 --clients 200 --model embedded

One process: app, engine and clients over loopback sockets. A third of the requests are abandoned after a random number
of tokens, one in ten is one that must be refused. Held at the end: every accepted job has ended, KV pools are empty,
and threads, tasks and file descriptors are back to what they were; memory of the second half of the time has not grown
by more than --slack MiB. Exits 0 if all of that holds, and prints the figures as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psutil
import uvicorn

from fastserve.engine import Engine
from fastserve.server import create_app
from fastserve.server.config.settings import FastServeConfig

NONSENSE: list[tuple[str, Any]] = [
    ("/v1/completions", {"prompt": "a", "max_tokens": 10**6}),
    ("/v1/completions", {"prompt": "a", "model": "nobody"}),
    ("/v1/chat/completions", {"messages": []}),
    ("/generate", {"prompt": "a", "bogus": 1}),
    ("/generate", {"prompt": 7}),
    ("/stream", "no json"),
    ("/nowhere", {}),
]


@dataclass
class Soak:
    """host, port: of the server. until: s, monotonic, when no new request starts."""

    host: str
    port: int
    until: float
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def client(self, number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < self.until:
            kind = draw.random()
            if kind < 0.1:
                await self.refused(draw)
            else:
                await self.streamed(draw, leaves=kind < 0.4)

    async def refused(self, draw: random.Random) -> None:
        path, body = draw.choice(NONSENSE)
        text = await self.ask(path, body if isinstance(body, str) else json.dumps(body), None)
        self.counts["refused"] += 1
        if not text.startswith(b"HTTP/1.1 4"):
            self.wrong.append(f"{path} {body} was answered with {text[:100]!r}")

    async def streamed(self, draw: random.Random, leaves: bool) -> None:
        tokens = draw.choice((4, 8, 16, 32, 64, 128))
        path, marker = draw.choice((("/v1/completions", b"data: [DONE]"), ("/generate/stream", b'"is_final":true')))
        fields = {"prompt": "x" * draw.randint(1, 60), "max_tokens": tokens, "stream": True, "ignore_eos": True}
        text = await self.ask(path, json.dumps(fields), draw.uniform(0, 1.5) if leaves else None)
        if leaves and marker not in text:
            self.counts["left"] += 1
            return
        self.counts["completed"] += 1
        events = text.count(b"data: {")
        if events != tokens + (path == "/generate/stream") or marker not in text:
            self.wrong.append(f"{path} of {tokens} tokens had {events} events: {text[:200]!r} ... {text[-200:]!r}")

    async def ask(self, path: str, body: str, patience: float | None) -> bytes:
        """The whole answer; with patience, what had come when it was over."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        got = bytearray()
        try:
            async with asyncio.timeout(patience):
                while part := await reader.read(65536):
                    got += part
        except TimeoutError:
            pass
        finally:
            writer.close()
        return bytes(got)


def main() -> int:
    parser = argparse.ArgumentParser(description="Many clients, and nothing left of them.")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--model", default="embedded", help='a model, or "scripted"')
    parser.add_argument("--slack", type=float, default=24, help="MiB that memory may grow in the second half")
    args = parser.parse_args()
    with engine_of(args.model) as engine:
        figures, wrong = soak(engine, args.seconds, args.clients, args.slack)
    print(json.dumps(figures, indent=2))
    for line in wrong[:20]:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


def engine_of(model: str) -> Engine:
    if model == "scripted":
        return Engine.scripted(max_batch=16, realtime=50.0, kv_tokens=2048, host_tokens=4096)
    return Engine.from_pretrained(model, max_batch=16, kv_tokens=4096, host_tokens=16384)


def soak(engine: Engine, seconds: float, clients: int, slack: float) -> tuple[dict[str, Any], list[str]]:
    """The figures, and what was wrong."""
    app = create_app(engine, FastServeConfig(queue_capacity=10 * clients, keep_jobs=500))
    service = app.state.service
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    process = psutil.Process()
    memory: list[int] = []

    async def drive(lasting: float, number: int) -> Soak:
        run = Soak("127.0.0.1", listener.getsockname()[1], time.monotonic() + lasting)

        async def watch() -> None:
            while True:
                await asyncio.sleep(max(0.2, lasting / 100))
                memory.append(process.memory_info().rss)

        watcher = asyncio.create_task(watch())
        await asyncio.gather(*[run.client(client) for client in range(number)])
        watcher.cancel()
        return run

    asyncio.run(drive(min(2.0, seconds / 5), clients))  # everything is loaded and every cache has its size
    settled(service)
    threads, files, tasks = held_now(process, service)
    memory.clear()
    began = time.monotonic()
    run = asyncio.run(drive(seconds, clients))
    took = time.monotonic() - began
    settled(service)
    snapshot = engine.snapshot()
    threads_left, files_left, tasks_left = held_now(process, service)
    half = memory[len(memory) // 2 :] or [process.memory_info().rss]
    growth = (half[-1] - half[0]) / (1 << 20)
    figures = {
        "seconds": round(took, 1),
        **run.counts,
        "jobs": service.totals.count,
        "tokens": service.totals.tokens,
        "preemptions": snapshot.counters["preemptions"],
        "threads": [threads, threads_left],
        "files": [files, files_left],
        "tasks": [tasks, tasks_left],
        "memory_mib": [round(value / (1 << 20)) for value in (half[0], half[-1])],
    }
    wrong = list(run.wrong)
    held = {
        "jobs that have not ended": len(service.registry.engine_ids),
        "jobs in the engine": snapshot.running + snapshot.waiting,
        "KV tokens on the device": snapshot.device.used + snapshot.device.parked,
        "KV tokens on the host": snapshot.host.used + snapshot.host.parked,
        "threads": max(0, threads_left - threads),
        "file descriptors": max(0, files_left - files),
        "tasks": max(0, tasks_left - tasks),
        "MiB of memory": max(0.0, growth - slack),
    }
    wrong += [f"{left} {what} left" for what, left in held.items() if left]
    server.should_exit = True
    thread.join()
    listener.close()
    return figures, wrong


def settled(service: Any) -> None:
    """Waits until the server has heard the end of every job and closed every connection."""
    until = time.monotonic() + 30
    while time.monotonic() < until and service.registry.engine_ids:
        time.sleep(0.05)
    time.sleep(0.3)


def held_now(process: psutil.Process, service: Any) -> tuple[int, int, int]:
    """Threads, file descriptors, and tasks of the server's event loop."""

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    found = asyncio.run_coroutine_threadsafe(tasks(), service.dispatcher.loop).result()
    return threading.active_count(), process.num_fds(), found


if __name__ == "__main__":
    sys.exit(main())
