"""What a hostile request costs a running server: how long /ping waits meanwhile, and how much memory it takes.

    python scripts/bench_hostile.py                       # a server of its own, every body at 1, 4 and 8 MiB
    python scripts/bench_hostile.py --only dicts --mib 8 --json build/hostile.json
    python scripts/bench_hostile.py --connections 3000    # half-sent requests and endless headers instead
    python scripts/bench_hostile.py --model ./folder      # flags of `fastserve serve` follow --model

/ping is asked again and again while the body is sent and answered. A row has the longest wait of a ping in wall time,
the most CPU time that the server took during one (what a quiet machine would show), and how far its peak of resident
memory rose above what it was before, in multiples of the body. Linux only: /proc/PID/clear_refs resets the peak.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

MIB = 1 << 20


def repeated(head: str, unit: str, tail: str) -> Callable[[int], bytes]:
    """A body of about that size: head, as many units as fit (commas between them stand in the unit), tail."""
    one, start, end = unit.encode(), head.encode(), tail.encode()
    return lambda size: start + one * ((size - len(start) - len(end)) // len(one)) + end


CHAT, TEXT, RAW = "/v1/chat/completions", "/v1/completions", "/generate"
BODIES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "dicts": (CHAT, repeated('{"messages":[', "{},", "{}]}")),
    "native dicts": ("/chat", repeated('{"messages":[', "{},", "{}]}")),
    "messages": (CHAT, repeated('{"messages":[', '{"role":"user","content":"a"},', '{"role":"user","content":"a"}]}')),
    "long message": (CHAT, repeated('{"messages":[{"role":"user","content":"', "word ", '"}]}')),
    "many long messages": (
        CHAT,
        repeated('{"messages":[', f'{{"role":"user","content":"{"word " * 2000}"}},', '{"role":"a","content":"a"}]}'),
    ),
    "messages is text": (CHAT, repeated('{"messages":"', "x", '"}')),
    "parts": (CHAT, repeated('{"messages":[{"role":"user","content":[', '{"type":"text"},', '{"type":"text"}]}]}')),
    "text": (TEXT, repeated('{"prompt":"', "word ", '"}')),
    "text, native": (RAW, repeated('{"prompt":"', "word ", '"}')),
    "text, no spaces": (TEXT, repeated('{"prompt":"', "x", '"}')),
    "text, emoji": (TEXT, repeated('{"prompt":"', "\U0001f600", '"}')),
    "text, one emoji": (TEXT, repeated('{"prompt":"\U0001f600', "x", '"}')),
    "text, escapes": (TEXT, repeated('{"prompt":"', "\\u00e9", '"}')),
    "text, quotes": (TEXT, repeated('{"prompt":"', '\\"', '"}')),
    "text, backslashes": (TEXT, repeated('{"prompt":"', "\\\\", '"}')),
    "text, bad field": (RAW, repeated('{"temperature":-1,"prompt":"', "word ", '"}')),
    "ids": (TEXT, repeated('{"prompt":[', "1,", "1]}")),
    "ids, long": (TEXT, repeated('{"prompt":[', "12345678,", "1]}")),
    "lists of ids": (TEXT, repeated('{"prompt":[', "[1,2,3],", "[1]]}")),
    "many long texts": (
        TEXT, lambda size: b'{"prompt":[' + b",".join([b'"' + b"word " * (size // 640) + b'"'] * 127) + b"]}"
    ),
    "prompts": (TEXT, repeated('{"prompt":[', '"ab",', '"ab"]}')),
    "strings": (RAW, repeated('{"prompt":"a","stop":[', '"ab",', '"ab"]}')),
    "floats": (TEXT, repeated('{"prompt":[', "1.5,", "1.5]}")),
    "nulls": (TEXT, repeated('{"prompt":[', "null,", "null]}")),
    "digits": (RAW, repeated('{"prompt":"a","seed":', "9", "}")),
    "fraction": (RAW, repeated('{"prompt":"a","temperature":0.', "1", "}")),
    "exponent": (RAW, repeated('{"prompt":"a","temperature":1e', "1", "}")),
    "depth": (RAW, repeated('{"prompt":"a","metadata":', "[", "")),
    "depth of objects": (RAW, repeated('{"prompt":"a","metadata":', '{"a":', "")),
    "metadata": ("/jobs", repeated('{"prompt":"a","metadata":{"k":[', "{},", "{}]}}")),
    "metadata text": ("/jobs", repeated('{"prompt":"a","metadata":{"k":"', "x", '"}}')),
    "one key again": (RAW, repeated("{", '"prompt":"a",', '"prompt":"a"}')),
    "unknown key": (RAW, repeated('{"prompt":"a","', "x", '":1}')),
    "unknown field": (TEXT, repeated('{"prompt":"a","x":"', "y", '"}')),
    "unknown lists": (TEXT, repeated('{"prompt":"a","x":[', "[],", "[]]}")),
    "tools": (CHAT, repeated('{"messages":[{"role":"user","content":"a"}],"tools":[', '{"type":"function"},', "{}]}")),
    "model name": (TEXT, repeated('{"prompt":"a","model":"', "x", '"}')),
    "user": (TEXT, repeated('{"prompt":"a","user":"', "x", '"}')),
    "spaces": (TEXT, repeated('{"prompt":"a"', " ", "}")),
    "not JSON": (TEXT, repeated("", "a", "")),
    "quotes": (TEXT, repeated("", '"', "")),
    "zeros": (TEXT, repeated("", "\0", "")),
    "brackets": (TEXT, repeated("", "[]", "")),
    "form": ("/stream", repeated("prompt=", "x", "")),
    "task": ("/send_text", repeated('{"text":"', "x", '"}')),
    "tokenize": ("/tokenize", repeated('{"prompt":"', "word ", '"}')),
    "detokenize": ("/detokenize", repeated('{"tokens":[', "1,", "1]}")),
    "detokenize lists": ("/detokenize", repeated('{"tokens":[', "[],", "1]}")),
    "nobatch": ("/v1/generate_nobatch", repeated('{"prompt":"', "word ", '"}')),
    "unknown path": ("/nowhere", repeated('{"prompt":"', "word ", '"}')),
}  # fmt: skip


def members(head: str, tail: str) -> Callable[[int], bytes]:
    """Every key is another one."""
    return lambda size: head.encode() + b",".join([b'"%07d":1' % i for i in range(size // 12)]) + tail.encode()


BODIES |= {
    "unknown members": (RAW, members('{"prompt":"a",', "}")),
    "ignored members": (TEXT, members('{"prompt":"a",', "}")),
    "logit_bias": (TEXT, members('{"prompt":"a","logit_bias":{', "}}")),
    "members of a message": ("/chat", members('{"messages":[{"role":"user","content":"a",', "}]}")),
}


class Row(NamedTuple):
    """Of one body. Times in ms; memory in MiB and in multiples of the body."""

    name: str
    mib: float
    status: int
    took_ms: float
    ping_wall_ms: float
    ping_cpu_ms: float
    pings: int
    peak_mib: float
    times_body: float
    answer: str


class Server:
    """A server process of this checkout, or of the one that PYTHONPATH names."""

    def __init__(self, flags: list[str]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        command = [sys.executable, "-m", "fastserve", "serve", "--port", "0", "--state-dir", self.folder.name, *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"serving at http://([\d.]+):(\d+)", line):
                self.address = found[1], int(found[2])
                break
        else:
            raise SystemExit("the server did not start")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def cpu_ms(self) -> float:
        """CPU time of all its threads."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6

    def memory_mib(self, what: str = "VmHWM") -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]

    def reset_peak(self) -> float:
        """Resident memory now, which is the peak from now on."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.memory_mib("VmRSS")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


def request(address: tuple[str, int], head: str, body: bytes = b"", timeout: float = 300.0) -> tuple[int, bytes]:
    """(status, start of the answer); 0 when the connection broke. The answer may come before the body is sent."""
    with socket.create_connection(address, timeout) as found:
        with contextlib.suppress(OSError):
            found.sendall(head.encode() + body)
        answer = b""
        with contextlib.suppress(OSError):
            while chunk := found.recv(1 << 16):
                answer += chunk
                if len(answer) > MIB:
                    break
    words = answer.split(b" ", 2)
    return (int(words[1]) if len(words) > 1 else 0), answer.partition(b"\r\n\r\n")[2][:200]


def ping(address: tuple[str, int]) -> None:
    request(address, "GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")


def measure(server: Server, name: str, path: str, body: bytes) -> Row:
    before = server.reset_peak()
    answered: list[tuple[int, bytes]] = []

    def attack() -> None:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        answered.append(request(server.address, head, body))

    attacker = threading.Thread(target=attack)
    started = time.perf_counter()
    attacker.start()
    worst, cpu, pings = 0.0, 0.0, 0
    while attacker.is_alive() or pings == 0:
        at, used = time.perf_counter(), server.cpu_ms()
        ping(server.address)
        took, spent = (time.perf_counter() - at) * 1e3, server.cpu_ms() - used
        pings += 1
        worst, cpu = max(worst, took), max(cpu, spent)
        time.sleep(0.01)
    attacker.join()
    took = (time.perf_counter() - started) * 1e3
    peak = server.memory_mib() - before
    status, answer = answered[0]
    return Row(
        name,
        len(body) / MIB,
        status,
        took,
        worst,
        cpu,
        pings,
        peak,
        peak * MIB / len(body),
        answer[:100].decode("utf-8", "replace"),
    )


HEADER = f"{'body':24}  MiB status  took ms  ping ms  cpu ms  MiB up x body  answer"


def shown(row: Row) -> str:
    times = f"{row.took_ms:8.0f} {row.ping_wall_ms:8.1f} {row.ping_cpu_ms:7.1f}"
    memory = f"{row.peak_mib:7.1f} {row.times_body:6.2f}"
    return f"{row.name:24} {row.mib:4.0f} {row.status:6} {times} {memory}  {row.answer[:60]!r}"


def rows(server: Server, args: argparse.Namespace) -> Iterator[Row]:
    for name, (path, make) in BODIES.items():
        if args.only and not any(word in name for word in args.only):
            continue
        for mib in args.mib:
            yield measure(server, name, path, make(int(mib * MIB) - 64))


def connections(server: Server, count: int) -> None:
    """Half-sent requests on so many connections, and headers that do not end."""
    before = server.reset_peak()
    halves: list[socket.socket] = []
    for number in range(count):
        with contextlib.suppress(OSError):
            half = socket.create_connection(server.address, 10)
            half.sendall(b"POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le"[: 20 + number % 20])
            halves.append(half)
    waits = []
    for _ in range(50):
        at = time.perf_counter()
        ping(server.address)
        waits.append((time.perf_counter() - at) * 1e3)
    rose = server.memory_mib() - before
    files = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
    print(
        f"{len(halves)} half-sent requests: /ping takes at most {max(waits):.0f} ms, {files} files, {rose:.1f} MiB more"
    )
    started = time.perf_counter()
    statuses: dict[bytes, int] = {}
    for half in halves:
        half.settimeout(60)
        with contextlib.suppress(OSError):
            status = half.recv(1 << 16).partition(b"\r\n")[0]
            statuses[status] = statuses.get(status, 0) + 1
        half.close()
    print(f"all answered after {time.perf_counter() - started:.1f} s: {statuses}")
    before = server.reset_peak()
    for what, head in (("one header", b"X: "), ("many headers", b"")):
        unit = b"a" * 65536 if head else b"X: a\r\n" * 10922
        sent = 0
        with socket.create_connection(server.address, 10) as found:
            found.sendall(b"GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\n" + head)
            with contextlib.suppress(OSError):
                found.settimeout(1)
                while sent < 64 * MIB and not select.select([found], [], [], 0)[0]:
                    sent += found.send(unit)
            status = found.recv(1 << 16).partition(b"\r\n")[0]
        print(
            f"{what} without end: {status!r} after {sent / 1024:.0f} KiB, {server.memory_mib() - before:.1f} MiB more"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Hostile bodies against a server of its own.")
    parser.add_argument("--mib", type=float, nargs="+", default=[1.0, 4.0, 8.0])
    parser.add_argument("--only", nargs="+", help="words of the names of bodies")
    parser.add_argument("--connections", type=int, metavar="N")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", nargs=argparse.REMAINDER, default=["embedded"], help="a model, and flags of serve")
    args = parser.parse_args()
    server = Server(["--model", *args.model])
    found: list[Row] = []
    try:
        for _ in range(20):  # warm: imports, caches, threads
            ping(server.address)
        if args.connections:
            connections(server, args.connections)
            return 0
        for small in (b'{"prompt":"a","max_tokens":1}', b'{"prompt":"' + b"a " * 40_000 + b'"}'):
            measure(server, "warm", TEXT, small)
        print(HEADER)
        for row in rows(server, args):
            found.append(row)
            print(shown(row), flush=True)
    finally:
        server.close()
    big: Any = [row for row in found if row.mib > 0.5]
    if big:
        print(
            f"{len(big)} bodies: /ping waited at most {max(row.ping_wall_ms for row in big):.0f} ms "
            f"({max(row.ping_cpu_ms for row in big):.0f} ms of the server's CPU); memory rose by at most "
            f"{max(row.times_body for row in big):.2f} times the body"
        )
    if args.json:
        args.json.write_text(json.dumps([row._asdict() for row in found], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
