"""Throughput over HTTP streaming against Engine.generate, in alternated runs on one engine.

    python scripts/bench_server.py
    python scripts/bench_server.py --model embedded --requests 128 --tokens 64

Offline: Engine.generate on all prompts at once. HTTP: so many clients, each with one streamed completion at a time,
over the loopback, in a process of their own. Prints both medians and their ratio; writes them to --json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from bench_engine_case import write_model

from fastserve.engine import Engine, SamplingParams
from fastserve.server import create_app
from fastserve.server.config.settings import FastServeConfig

FOLDER = Path(__file__).parent.parent / "build" / "llama-114M"

Prompts = list[list[int]]


def main() -> int:
    parser = argparse.ArgumentParser(description="What HTTP costs.")
    parser.add_argument(
        "--model", help='a model, or "scripted" (20 ms a token over --speed); default: 114M, Llama-like, random weights'
    )
    parser.add_argument("--load-format", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--policy", default="sj-mlfq")
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--client-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.client_of:
        print(json.dumps(asyncio.run(drive(args.client_of, args))))
        return 0
    if args.model is None:
        args.model, args.load_format = str(write_model(FOLDER)), "dummy"
    with engine_of(args) as engine:
        print(engine.start_line())
        base = serve(engine)
        rates: dict[str, list[float]] = {"offline": [], "http": []}
        offline(engine, prompts(args.max_batch, engine.vocab_size, 0), args.tokens)  # warm
        for number in range(args.rounds):
            asked = prompts(args.requests, 127, 0)
            rates["offline"].append(offline(engine, asked, args.tokens))
            rates["http"].append(over_http(base))
            print(f"round {number + 1}: offline {rates['offline'][-1]:.1f} tokens/s, HTTP {rates['http'][-1]:.1f}")
        medians = {name: statistics.median(found) for name, found in rates.items()}
        ratio = statistics.median(http / own for own, http in zip(rates["offline"], rates["http"], strict=True))
        print(f"median: offline {medians['offline']:.1f}, HTTP {medians['http']:.1f} tokens/s, ratio {ratio:.3f}")
        if args.json:
            args.json.write_text(json.dumps({"rates": rates, "ratio": ratio, "settings": vars(args)}, default=str))
    return 0


def engine_of(args: argparse.Namespace) -> Engine:
    if args.model == "scripted":
        return Engine.scripted(policy=args.policy, max_batch=args.max_batch, realtime=args.speed)
    return Engine.from_pretrained(
        args.model,
        policy=args.policy,
        max_batch=args.max_batch,
        load_format=args.load_format,
        dtype=args.dtype,
        threads=args.threads,
    )


def prompts(count: int, vocab: int, seed: int) -> Prompts:
    draw = random.Random(seed)
    return [[draw.randrange(32, min(127, vocab)) for _ in range(draw.randint(8, 64))] for _ in range(count)]


def offline(engine: Engine, asked: Prompts, tokens: int) -> float:
    """Tokens a second."""
    began = time.perf_counter()
    outputs = engine.generate(asked, SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0))
    return sum(len(output.token_ids) for output in outputs) / (time.perf_counter() - began)


def serve(engine: Engine) -> str:
    """The app in a thread of this process, as `fastserve serve` has it; its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = create_app(engine, FastServeConfig())
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def over_http(base: str) -> float:
    """Tokens a second as the clients saw them; the clients' start is left out."""
    command = [sys.executable, __file__, *sys.argv[1:], "--client-of", base]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return float(found["tokens"]) / float(found["seconds"])


async def drive(base: str, args: argparse.Namespace) -> dict[str, float]:
    """Plain sockets: cheap clients, as they share the machine with the server."""
    waiting = prompts(args.requests, 127, 0)
    host, port = base.removeprefix("http://").split(":")
    tokens = 0

    async def client() -> None:
        nonlocal tokens
        while waiting:
            fields = {"max_tokens": args.tokens, "stream": True, "ignore_eos": True, "temperature": 0}
            body = json.dumps({"prompt": waiting.pop(), **fields}).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            told = await reader.read()
            tokens += told.count(b"data: {")
            writer.close()
            await writer.wait_closed()

    began = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(args.clients)])
    return {"tokens": tokens, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    sys.exit(main())
