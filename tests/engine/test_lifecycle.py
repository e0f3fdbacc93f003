"""How an engine ends, and what other threads, other engines and other processes can do to it."""

import gc
import os
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastserve import Job, Policy
from fastserve.backends.scripted import PRINTABLE, ScriptedBackend, draw
from fastserve.engine import Engine, SamplingParams
from fastserve.engine.byte_tokenizer import ByteTokenizer
from fastserve.engine.clock import VirtualClock
from fastserve.engine.inbox import MAX_STALE
from fastserve.engine.request import Piece
from fastserve.metrics.records import Columns

ROOT = Path(__file__).resolve().parents[2]
LONG = SamplingParams(max_tokens=2000)
SHORT = SamplingParams(max_tokens=5)


def test_an_engine_that_nobody_holds_ends_its_thread() -> None:
    engine = Engine.scripted()
    engine.generate("x", SHORT)
    thread, gone = engine._lifecycle.thread, weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
    thread.join(10)
    assert not thread.is_alive()


def test_a_handle_holds_its_engine() -> None:
    handle = Engine.scripted().submit("x", LONG)
    gc.collect()
    assert len(handle.result(60).token_ids) == 2000


def test_the_interpreter_ends_while_requests_run() -> None:
    code = (
        "from fastserve.engine import Engine, SamplingParams\n"
        "engine = Engine.scripted(realtime=1.0)\n"
        "handle = engine.submit('x', SamplingParams(max_tokens=2000))\n"
        "next(iter(handle))\n"
        "print('leaving', flush=True)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert (run.stdout, run.stderr) == ("leaving\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_says_that_the_engine_is_not_there() -> None:
    code = (
        "import os\n"
        "from fastserve.engine import Engine, SamplingParams\n"
        "engine = Engine.scripted()\n"
        "params = SamplingParams(max_tokens=5)\n"
        "handle = engine.submit('x', params)\n"
        "handle.result()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    said = []\n"
        "    for act in (lambda: engine.submit('x', params), engine.snapshot, engine.records, handle.cancel):\n"
        "        try:\n"
        "            act()\n"
        "        except RuntimeError as error:\n"
        "            said.append('make the engine after the fork' in str(error))\n"
        "    engine.close()\n"
        "    print(said, engine.alive, flush=True)\n"
        "    raise SystemExit\n"
        "os.waitpid(child, 0)\n"
        "print(len(engine.generate('x', params)[0].token_ids), engine.alive)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout == "[True, True, True, True] False\n5 True\n"


def test_two_engines_do_not_meet() -> None:
    with Engine.scripted(policy="fcfs") as one, Engine.scripted(policy="mlfq", max_batch=2) as other:
        crowds = [[engine.submit("x", SamplingParams(max_tokens=200, seed=i)) for i in range(10)]
                  for engine in (one, other)]  # fmt: skip
        first, second = ([handle.result(60).token_ids for handle in crowd] for crowd in crowds)
        assert first == second
        assert one.counters["output_tokens"] == other.counters["output_tokens"] == 2000
        one.close()
        assert len(other.generate("x", SHORT)[0].token_ids) == 5


class Leaves(Policy):
    """It ends its thread."""

    def rank(self, job: Job) -> int:
        if job.generated == 3:
            raise SystemExit("enough")
        return job.arrival


def test_a_policy_that_leaves_leaves_nobody_waiting() -> None:
    with Engine.scripted(policy=Leaves) as engine:
        with engine.inbox.condition:
            handles = [engine.submit("x", SHORT) for _ in range(4)]
        outputs = [handle.result(10) for handle in handles]
        assert {(output.finish_reason, "enough" in str(output.error)) for output in outputs} == {("error", True)}
        engine._lifecycle.thread.join(10)
        assert not engine.alive


def test_a_listener_that_leaves_is_detached() -> None:
    def leaves(piece: Piece) -> None:
        raise SystemExit

    with Engine.scripted() as engine:
        assert len(engine.submit("x", SHORT, listener=leaves).result(10).token_ids) == 5
        assert engine.alive


def test_a_listener_may_ask_and_close_but_not_wait() -> None:
    seen: list[Any] = []
    over = threading.Event()

    def curious(piece: Piece) -> None:
        if piece.index == 2:
            seen.append(engine.snapshot())
            seen.append(engine.records())
            with pytest.raises(RuntimeError, match="the engine's own thread"):
                engine.generate("x", SHORT)
            engine.close()
            over.set()

    with Engine.scripted() as engine:
        handle = engine.submit("x", LONG, listener=curious)
        assert over.wait(10)
        assert handle.result(10).finish_reason == "cancelled"
    snapshot, records = seen
    assert snapshot.running == 1
    columns: Columns = records
    assert len(columns["id"]) == 0


def test_timeouts_of_requests_that_have_ended_are_not_kept() -> None:
    with Engine.scripted() as engine:
        for _ in range(5):
            with engine.inbox.condition:
                handles = [engine.submit("x", SamplingParams(max_tokens=1), timeout_s=1e6) for _ in range(MAX_STALE)]
            for handle in handles:
                handle.result(60)
        assert len(engine.inbox._cancels) <= 2 * MAX_STALE
        late = engine.submit("x", LONG, timeout_s=0.5)
        assert late.result(60).finish_reason == "timeout"


def test_a_cancel_needs_a_reason() -> None:
    with Engine.scripted() as engine:
        handle = engine.submit("x", SHORT)
        with pytest.raises(ValueError, match="needs a reason"):
            handle.cancel("")
        assert handle.result(10).finish_reason == "length"


def test_a_tokenizer_that_fails_fails_the_request_alone() -> None:
    first = PRINTABLE[draw(1, 0) % len(PRINTABLE)]

    class Broken(ByteTokenizer):
        def decode(self, token_ids: Any, *, skip_special_tokens: bool = False, **_: Any) -> str:
            if first in token_ids:
                raise UnicodeError("no such token")
            return super().decode(token_ids)

    body = ScriptedBackend()
    body.info = replace(body.info, tokenizer=Broken())
    with Engine.on(body, clock=VirtualClock()) as engine:
        bad, good = engine.generate(["x", "x"], [SamplingParams(max_tokens=5, seed=i) for i in (1, 2)])
        assert (bad.finish_reason, good.finish_reason) == ("error", "length")
        assert engine.alive
