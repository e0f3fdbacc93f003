"""SmolLM2 over HTTP at 1, 4, 16 and 32 clients: ours with several weights beside llama.cpp's server, in turn.

    python scripts/bench_clients.py            # three rounds of everything that is installed; half an hour on two cores
    python scripts/bench_clients.py --quick    # one round of a third of the requests
    python scripts/bench_clients.py --resume   # goes on with the newest run of these settings

All servers are open at once, and all idle but the one that is measured: neighbours in a round are seconds apart.
Each client has one streamed completion at a time: prompts of 32 to 192 random token ids, answers of 32 to 96 tokens,
greedy, to the full length. Every server gets the same requests, the same number of threads, and room for 32 sequences.
Then a table: tokens a second, the ratio of ours to each within the rounds, and the floor of a step: the bytes of
weights that it reads over the memory bandwidth measured beside it. make bench-engine runs it too. Results are in
results/bench_clients/TIME.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench_clients_report import report
from bench_clients_servers import KINDS, gguf_file, llamacpp_python, missing, start

from fastserve.compare.subprocess_server import Child, ServerError
from sim.report.provenance import provenance

ROOT = Path(__file__).parent.parent
REQUESTS = {1: 6, 4: 12, 16: 32, 32: 64}
"""How many at so many clients."""

VOCABULARY = range(300, 45_000)  # no special token
WARM = 4


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one round of a third of the requests")
    add("--rounds", type=int, help="default: 3")
    add("--clients", type=int, action="append", choices=list(REQUESTS), help="may be repeated (default: all)")
    add("--only", action="append", metavar="NAME", choices=list(KINDS), help="may be repeated: one of %(choices)s")
    add("--threads", type=int, default=os.cpu_count() or 1, help="of every server (default: %(default)s)")
    add("--into", type=Path, default=ROOT / "results" / "bench_clients", metavar="FOLDER", help="for the results")
    add("--resume", action="store_true", help="go on with the newest run of these settings")
    return parser


class Bench:
    """done: series -> server -> tokens a second; a series is a number of clients and a round."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rounds = options.rounds or (1 if options.quick else 3)
        self.clients = options.clients or list(REQUESTS)
        self.settings = {"rounds": self.rounds, "clients": self.clients, "threads": options.threads,
                         "quick": options.quick, "only": options.only}  # fmt: skip
        self.done: dict[str, dict[str, Any]] = {}
        self.facts: dict[str, Any] = {}
        options.into.mkdir(parents=True, exist_ok=True)
        self.file = options.into / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}.json"
        if options.resume:
            self._take_up()

    def run(self) -> int:
        began = time.monotonic()
        with ExitStack() as stack:
            servers = self._open(stack)
            for turn in range(self.rounds):
                for clients in self.clients:
                    series = f"{clients} clients, {turn + 1}"
                    if series not in self.done:
                        self.done[series] = self._series(servers, clients, turn)
                        self._save()
        print(f"\n{(time.monotonic() - began) / 60:.0f} minutes; {self.file}\n\n{report(self.facts, self.done)}")
        return int(not self.done)

    def _open(self, stack: ExitStack) -> dict[str, Child]:
        python = llamacpp_python()
        servers: dict[str, Child] = {}
        for name in self.options.only or KINDS:
            why = missing(name, python)
            try:
                if why is None:
                    servers[name] = stack.enter_context(start(name, python, self.options.threads))
                    self.facts[name] = {"step_bytes": step_bytes(name, servers[name])}
                    asyncio.run(load(servers[name].url, requests(WARM, 0), WARM))
            except (ServerError, OSError, ValueError) as error:
                why = str(error)
            print(f"{name}: {'open' if why is None else f'left out: {why}'}", flush=True)
        return servers

    def _series(self, servers: dict[str, Child], clients: int, turn: int) -> dict[str, Any]:
        found: dict[str, Any] = {"bandwidth": bandwidth(self.options.threads)}
        asked = requests(REQUESTS[clients] // (3 if self.options.quick else 1), 1 + turn)
        names = list(servers)
        for name in names[turn % max(1, len(names)) :] + names[: turn % max(1, len(names))]:
            before = cpu_seconds(servers[name].process.pid)
            try:
                rate = asyncio.run(load(servers[name].url, asked, clients))
            except (OSError, ValueError, ServerError) as error:
                print(f"{clients} clients, {turn + 1}: {name}: failed: {error}", flush=True)
                continue
            tokens = sum(n for _, n in asked)
            cpu = (cpu_seconds(servers[name].process.pid) - before) / tokens * 1e3
            found[name] = {"tok_s": rate, "cpu_ms": cpu, "load": os.getloadavg()[0]}
            print(f"{clients} clients, {turn + 1}: {name}: {rate:.1f} tok/s, {cpu:.1f} CPU ms a token", flush=True)
        return found

    def _save(self) -> None:
        kept = {"provenance": provenance(), "settings": self.settings, "facts": self.facts, "series": self.done}
        self.file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")

    def _take_up(self) -> None:
        for file in sorted(self.options.into.glob("*.json"), reverse=True):
            found = json.loads(file.read_text(encoding="utf-8"))
            if found["settings"] == self.settings:
                self.file, self.done, self.facts = file, found["series"], found["facts"]
                print(f"going on with {file}: {len(self.done)} series are there", flush=True)
                return
        print("there is no run of these settings to go on with: this is a new one", flush=True)


def requests(count: int, seed: int) -> list[tuple[list[int], int]]:
    """Prompts as token ids, and the tokens of their answers."""
    draw = random.Random(seed)
    return [(draw.choices(VOCABULARY, k=draw.randint(32, 192)), draw.randint(32, 96)) for _ in range(count)]


async def load(url: str, asked: list[tuple[list[int], int]], clients: int) -> float:
    """Tokens a second, over plain sockets: cheap clients, as they share the machine with the server.

    ValueError where a server says another number of tokens than it was asked for.
    """
    host, port = url.removeprefix("http://").split(":")
    waiting = list(reversed(asked))

    async def client() -> None:
        while waiting:
            prompt, tokens = waiting.pop()
            fields = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                      "stream_options": {"include_usage": True}}  # fmt: skip
            body = json.dumps(fields).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            told = await reader.read()
            writer.close()
            if f'"completion_tokens":{tokens}'.encode() not in told.replace(b" ", b""):
                raise ValueError(f"an answer of {tokens} tokens did not come: {told[-200:]!r}")

    began = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(clients)])
    return sum(tokens for _, tokens in asked) / (time.perf_counter() - began)


def step_bytes(name: str, server: Child) -> int | None:
    """Bytes of weights that one step reads, as far as that is known: of a file, all of it, as SmolLM2's are tied."""
    if KINDS[name].gguf:
        return gguf_file(KINDS[name].gguf).stat().st_size
    with urllib.request.urlopen(f"{server.url}/stats/detailed") as answer:
        found: int | None = json.load(answer).get("settings", {}).get("step_bytes")
    return found


def cpu_seconds(pid: int) -> float:
    """Of a process with all its threads; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read of memory; the best of five passes over 512 MB."""
    import torch

    torch.set_num_threads(threads)
    held = torch.ones(1 << 27)

    def once() -> float:
        began = time.perf_counter()
        held.sum()
        return time.perf_counter() - began

    return held.nbytes / min(once() for _ in range(5))


if __name__ == "__main__":
    sys.exit(Bench(arguments().parse_args()).run())
