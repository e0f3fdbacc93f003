"""What goes wrong between here and the upstream: it breaks, is gone, refuses, floods, hangs, drips, says nonsense."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastserve.backends.upstream import connection, stream
from fastserve.engine import Engine, Output, SamplingParams
from fastserve.engine.config import EngineConfig
from fastserve.flightlog.replay import replay_log
from fastserve.launch import Body
from tests.backends.upstream.stub import SECRET, Handler, Stub, answer_to, free_port, wait_until

SOON_S = 60.0
TWENTY = SamplingParams(max_tokens=20, temperature=0.0)
KEY = "sesame-5a6b"


@pytest.fixture(params=["llama", "vllm", "ollama"])
def stub(request: pytest.FixtureRequest) -> Iterator[Stub]:
    found = Stub(request.param)
    yield found
    found.stop()


@contextmanager
def front(stub: Stub, policy: str = "fcfs", max_batch: int = 4, **options: Any) -> Iterator[Engine]:
    with Body("tiny", "upstream", **{"upstream": stub.url, "upstream_slots": 4, **options}).engine(
        EngineConfig.of({"policy": policy, "max_batch": max_batch, "visit": 0})
    ) as engine:
        yield engine


def ask(engine: Engine, prompt: str = "once", params: SamplingParams = TWENTY) -> Output:
    return engine.submit(prompt, params).result(SOON_S)


def breaks_after(tokens: int, times: int) -> Callable[[Handler, dict[str, Any], int], bool]:
    """The first completions are dropped after so many tokens each."""

    def hook(handler: Handler, body: dict[str, Any], number: int) -> bool:
        if number >= times:
            return False
        handler.begin()
        handler.complete(body, tokens, whole=False)
        handler.drop()
        return True

    return hook


def test_what_breaks_goes_on_where_it_was(stub: Stub) -> None:
    stub.hook = breaks_after(6, 3)
    with front(stub) as engine:
        output = ask(engine)
    assert output.text == answer_to(b"once", 20) and output.finish_reason == "length"
    assert len(output.token_ids) == 20 and len(stub.asked) == 4
    left = [body.get("max_tokens") or body.get("n_predict") or body["options"]["num_predict"] for _, body in stub.asked]
    assert left == [20, 14, 8, 2]


def test_a_text_goes_on_where_ids_came_whose_texts_nobody_knows() -> None:
    """Our own server says the ids of the output and not those of the prompt."""
    stub = Stub("fastserve")
    try:
        stub.hook = breaks_after(6, 1)
        with front(stub) as engine:
            output = ask(engine)
        assert [body["prompt"] for _, body in stub.asked] == ["once", "once" + answer_to(b"once", 6)]
        assert output.text == answer_to(b"once", 20)
    finally:
        stub.stop()


def test_what_never_gets_on_is_given_up(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be this request that breaks it: the others would be broken with it for ever."""
    monkeypatch.setattr(stream, "FIRST_PAUSE_S", 0.001)
    stub.hook = breaks_after(0, 1000)
    with front(stub) as engine:
        output = ask(engine)
        assert output.finish_reason == "error" and f"broke {stream.BREAKS} times in a row" in str(output.error)
        assert len(stub.asked) == stream.BREAKS
        stub.hook = None
        assert ask(engine).text == answer_to(b"once", 20)


def test_one_that_comes_back_is_gone_on_with(stub: Stub, caplog: pytest.LogCaptureFixture) -> None:
    """Gone in the middle, with requests that run and that wait: all get what they would have got."""
    stub.step_s = 0.005
    prompts = [f"prompt {i}" for i in range(8)]
    with front(stub, max_batch=2) as engine:
        handles = [engine.submit(prompt, TWENTY) for prompt in prompts]
        wait_until(lambda: len(handles[0]._request.tokens) > 3)
        port = stub.server_address[1]
        stub.stop()
        asked = len(stub.asked)
        time.sleep(0.05)
        again = Stub(stub.api, port=port)
        try:
            for prompt, handle in zip(prompts, handles, strict=True):
                output = handle.result(SOON_S)
                assert output.error is None and output.text == answer_to(prompt.encode(), 20)
            assert asked < 8 and len(again.asked) >= 8 - asked + 1, "some had begun, and others had not"
        finally:
            again.stop()
    told = caplog.text.count("does not answer and is asked again")
    assert 1 <= told <= 3, "an outage, not each who suffers from it; a line may have been on its way"


def test_one_that_stays_away_ends_requests_in_time(stub: Stub) -> None:
    with front(stub, upstream_wait=1) as engine:
        stub.stop()
        output = ask(engine)
        assert output.finish_reason == "error" and "the upstream was gone for 1 s" in str(output.error)
        assert not any(engine.look(engine.loop.backend.held).values())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "said"), [(400, {"error": {"message": "no such thing", "code": 400}}), (500, "a plain sentence")]
)
def test_what_it_refuses_ends_one_request_in_its_words(stub: Stub, status: int, said: Any) -> None:
    stub.hook = lambda handler, body, number: number == 1 and handler.answer(status, said)
    with front(stub) as engine:
        first, second = ask(engine), ask(engine)
        third = ask(engine)
    assert first.error is None and third.error is None
    words = said if isinstance(said, str) else said["error"]["message"]
    assert second.finish_reason == "error" and words in str(second.error) and str(status) in str(second.error)


@pytest.mark.parametrize("status", [429, 503])
def test_one_that_is_not_ready_is_asked_again(stub: Stub, status: int) -> None:
    stub.hook = lambda handler, body, number: number < 3 and handler.answer(status, {"error": "loading"})
    with front(stub) as engine:
        assert ask(engine).text == answer_to(b"once", 20)
    assert len(stub.asked) == 4


BAD = {
    "no JSON": b"data: {half\n\n",
    "a list": b"data: [1]\n\n",
    "an error within": b'data: {"error": {"message": "out of slots"}}\n\n',
}


@pytest.mark.parametrize("what", BAD)
def test_nonsense_ends_one_request(what: str, stub: Stub) -> None:
    data = BAD[what].removeprefix(b"data: ") if stub.api == "ollama" else BAD[what]

    def hook(handler: Handler, body: dict[str, Any], number: int) -> bool:
        if number:
            return False
        handler.begin()
        handler.complete(body, 2, whole=False)
        handler.chunk(data)
        return True

    stub.hook = hook
    with front(stub) as engine:
        output = ask(engine)
        assert output.finish_reason == "error" and "upstream" in str(output.error)
        assert (output.text, len(output.token_ids)) == (answer_to(b"once", 2), 2)
        assert what != "an error within" or "out of slots" in str(output.error)
        assert ask(engine).error is None


def test_a_line_without_end_is_not_kept(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LONGEST_LINE", 4096)

    def hook(handler: Handler, body: dict[str, Any], number: int) -> bool:
        handler.begin()
        while True:
            handler.chunk(b"x" * 1024)

    stub.hook = hook
    with front(stub) as engine:
        assert "a line of more than 4096 bytes" in str(ask(engine).error)
    wait_until(lambda: stub.busy == 0)


def test_a_flood_is_not_read_on(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so much is kept of what comes faster than it is handed out, and nothing beyond what was asked for."""
    monkeypatch.setattr(stream, "AHEAD", 16)
    most = 0

    def hook(handler: Handler, body: dict[str, Any], number: int) -> bool:
        options = body.get("options", {})
        name = next(name for name in ("max_tokens", "n_predict", "num_predict") if name in body or name in options)
        (options if name in options else body)[name] = 100_000
        handler.complete(body)
        return True

    stub.hook = hook
    with front(stub) as engine:
        backend: Any = engine.loop.backend
        handle = engine.submit("once", SamplingParams(max_tokens=60, temperature=0.0))
        while not handle.done:
            most = max([most, *(len(answer.waiting) for answer in list(backend.answers.values()))])
        output = handle.result(SOON_S)
    assert output.text == answer_to(b"once", 60) and most <= 17 + 1
    wait_until(lambda: stub.busy == 0)


def test_who_drips_is_read_as_it_comes(stub: Stub) -> None:
    """Byte by byte, with empty lines and comments between."""

    def hook(handler: Handler, body: dict[str, Any], number: int) -> bool:
        plain, drip = handler.chunk, b"\n\n" if stub.api == "ollama" else b": ping\n\n"

        def dripping(data: bytes) -> None:
            for i in range(len(data)):
                plain(data[i : i + 1])
            plain(drip)

        handler.chunk = dripping  # type: ignore[method-assign]
        return False

    stub.hook = hook
    with front(stub) as engine:
        assert ask(engine).text == answer_to(b"once", 20)


@pytest.mark.parametrize("noise", [b"", b": ping\n\n"])
def test_one_that_says_nothing_new_is_asked_again(stub: Stub, noise: bytes) -> None:
    """It holds the connection and hangs, with or without signs of life."""

    def hook(handler: Handler, body: dict[str, Any], number: int) -> bool:
        if number:
            return False
        handler.begin()
        handler.complete(body, 5, whole=False)
        for _ in range(400):
            if noise:
                handler.chunk(noise if stub.api != "ollama" else b"\n")
            time.sleep(0.01)
        return True

    stub.hook = hook
    with front(stub, upstream_silence=1) as engine:
        assert ask(engine).text == answer_to(b"once", 20)
    assert len(stub.asked) == 2


def test_who_leaves_frees_his_place_there(stub: Stub) -> None:
    """The upstream's own count: after a cancel, and after a preemption."""
    stub.step_s = 0.01
    long = SamplingParams(max_tokens=60, temperature=0.0)
    with front(stub) as engine:
        handles = [engine.submit(f"long {i}", long) for i in range(3)]
        wait_until(lambda: all(handle._request.tokens for handle in handles))
        assert stub.busy == 3
        handles[1].cancel()
        wait_until(lambda: stub.busy == 2)
        assert engine.loop.backend.busy() == (None if stub.api == "ollama" else 2)  # type: ignore[attr-defined]
    with front(stub, "las", max_batch=1) as engine:
        first = engine.submit("a" * 20, long)
        wait_until(lambda: len(first._request.tokens) > 3)
        engine.submit("b", SamplingParams(max_tokens=2, temperature=0.0)).result(SOON_S)
        assert first.result(SOON_S).text == answer_to(b"a" * 20, 60)
        assert first._request.record["preemptions"] >= 1
    wait_until(lambda: stub.busy == 0)


def test_the_key_is_sent_and_never_told(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    stub = Stub(key=KEY)
    try:
        with front(stub, upstream_key=KEY) as engine:
            assert ask(engine).error is None
            told = f"{engine.settings} {engine.start_line()} {engine.loop.backend!r} {vars(engine.info.tokenizer)}"
            stub.key = "another"
            output = ask(engine)
            assert "refuses the key" in str(output.error)
        with pytest.raises(ValueError, match="asks for a key: give upstream_key"), front(stub):
            pass
        with (
            pytest.raises(ValueError, match="would be logged") as caught,
            front(stub, upstream=stub.url.replace("http://", f"http://me:{KEY}@")),
        ):
            pass
    finally:
        stub.stop()
    said = f"{told} {output.error} {caplog.text} {capfd.readouterr()} {caught.value}"
    assert not SECRET.search(said)


def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    """The start waits, says so, and gives up with a message."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionError, match=r"has not answered for 1 s: .*refused; start it"):
        Body("tiny", "upstream", upstream=url, upstream_wait=1).engine(EngineConfig.of({"policy": "fcfs"}))
    assert f"waiting for upstream {url}" in caplog.text


def test_one_that_comes_up_late_is_waited_for() -> None:
    import threading

    port = free_port()
    made: list[Stub] = []
    later = threading.Timer(0.3, lambda: made.append(Stub(port=port)))
    later.start()
    try:
        with Body("tiny", "upstream", upstream=f"127.0.0.1:{port}").engine(
            EngineConfig.of({"policy": "fcfs"})
        ) as engine:
            assert ask(engine).text == answer_to(b"once", 20)
    finally:
        later.join()
        made[0].stop()


@pytest.mark.parametrize("policy", ["sj-mlfq", "las"])
@pytest.mark.parametrize("batching", ["chunked", "prefill-first"])
def test_its_flight_log_is_replayed(policy: str, batching: str, tmp_path: Path) -> None:
    """Uneven iterations, chunks of prefills that the upstream does at once, returns: every plan comes again."""
    stub = Stub(step_s=0.001)
    path = tmp_path / "log.jsonl"
    config = EngineConfig.of(
        {"policy": policy, "max_batch": 3, "batching": batching, "token_budget": 16, "flight_log": path, "visit": 0}
    )
    try:
        with Body("tiny", "upstream", upstream=stub.url).engine(config) as engine:
            prompts = ["word " * (3 + 5 * (i % 4)) for i in range(10)]
            for output in engine.generate(prompts, TWENTY):
                assert output.error is None and len(output.token_ids) == 20
    finally:
        stub.stop()
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0])["tokens"] == "estimated"
    found = replay_log(path)
    assert found.difference is None and found.plans > 20, str(found)


def test_nobody_is_displaced_for_less_than_his_return_costs() -> None:
    """A place is all the memory there is: the visit guard of the brain counts what a return costs."""
    stub = Stub(step_s=0.01)
    try:
        config = EngineConfig.of({"policy": "las", "max_batch": 1})
        with Body("tiny", "upstream", upstream=stub.url).engine(config) as engine:
            first = engine.submit("a" * 20, SamplingParams(max_tokens=40, temperature=0.0))
            wait_until(lambda: len(first._request.tokens) > 3)
            engine.submit("b", SamplingParams(max_tokens=2, temperature=0.0)).result(SOON_S)
            assert first.result(SOON_S).record["preemptions"] == 0
            assert engine.hardware.memory.device_blocks == 1
    finally:
        stub.stop()
