"""`fastserve chat`: from a pipe and in a terminal, with a model in this process and with a server."""

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fastserve.__main__ import main
from fastserve.cli.chat import Chat
from fastserve.cli.conversation import Answer, AnswerError, Message

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0


class Echo:
    """Says what it was sent: roles and contents. `fail` breaks off behind the first word, `refuse` before it."""

    name = "echo"

    def __init__(self) -> None:
        self.heard: list[list[Message]] = []

    def answer(self, messages: Any) -> Answer:
        self.heard.append([dict(message) for message in messages])
        last = messages[-1]["content"]
        if last == "refuse":
            raise AnswerError("too long")
        yield "you said "
        if last == "fail":
            raise AnswerError("the server has gone")
        yield last
        return "length" if last == "long" else "stop"


def talk(text: str, system: str | None = None) -> tuple[int, str, Echo]:
    out = io.StringIO()
    echo = Echo()
    status = Chat(echo, system, io.StringIO(text), out).run()
    return status, out.getvalue(), echo


def test_a_conversation_remembers_its_turns() -> None:
    status, said, echo = talk("one\n\n  two  \n/new\nthree\n/exit\nfour\n", "be brief")
    assert (status, said) == (0, "you said one\nyou said two\nyou said three\n")
    system = {"role": "system", "content": "be brief"}
    assert echo.heard == [
        [system, {"role": "user", "content": "one"}],
        [system, {"role": "user", "content": "one"}, {"role": "assistant", "content": "you said one"},
         {"role": "user", "content": "two"}],
        [system, {"role": "user", "content": "three"}],
    ]  # fmt: skip


def test_commands_and_what_only_looks_like_one(capsys: pytest.CaptureFixture[str]) -> None:
    status, said, echo = talk("/system speak in rhymes\na\n/system\n/help\n/etc/hosts is a file\nlong\n/quit\n")
    assert status == 0 and said == "you said a\nyou said /etc/hosts is a file\nyou said long\n"
    assert [messages[0]["role"] for messages in echo.heard] == ["system", "user", "user"]
    err = capsys.readouterr().err
    assert "(the system message is set)" in err and "(no system message)" in err and "Ctrl-C stops an answer" in err
    assert "(cut at --max-tokens)" in err


def test_what_is_not_answered_is_told_and_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    status, said, echo = talk("a\nrefuse\nfail\nb\n")
    assert status == 1 and said == "you said a\nyou said \nyou said b\n"
    assert [message["content"] for message in echo.heard[-1]] == ["a", "you said a", "fail", "you said ", "b"]
    err = capsys.readouterr().err
    assert "fastserve chat: too long; /new begins another conversation" in err and "the server has gone" in err


class Server(BaseHTTPRequestHandler):
    """OpenAI's chat route, in a few lines. asked: bodies and tokens."""

    asked: ClassVar[list[tuple[dict[str, Any], str]]] = []

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._say(200, json.dumps({"data": [{"id": "theirs"}]} if self.path == "/v1/models" else {}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((body, self.headers.get("Authorization", "")))
        last = body["messages"][-1]["content"]
        if last == "refuse":
            self._say(400, json.dumps({"error": {"message": "too long"}}))
            return
        events: list[Any] = [
            {"choices": [{"delta": {"role": "assistant"}}]},
            *({"choices": [{"delta": {"content": part}}]} for part in ("Wie ", "schön: ", last)),
        ]
        if last == "fail":
            events.append({"error": {"message": "out of memory"}})
        elif last != "cut":
            events += [{"choices": [{"delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": {}}]
        lines = "".join([f"data: {json.dumps(event)}\n\n" for event in events])
        self._say(200, lines + ("data: [DONE]\n\n" if last != "cut" else ""), "text/event-stream")

    def _say(self, status: int, text: str, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def url() -> Iterator[str]:
    Server.asked = []
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def piped(text: str, *flags: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return main(["chat", *flags])


def test_a_server_of_any_make(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    flags = ["--url", f"{url}/v1/", "--temperature", "0", "--stop", "x", "--sampling-seed", "3", "--max-tokens", "9"]
    assert piped("a\nb\n", *flags, monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == "Wie schön: a\nWie schön: b\n"
    (first, key), (second, _) = Server.asked
    assert key == "Bearer sesame" and len(second["messages"]) == 3
    assert {name: value for name, value in first.items() if name != "messages"} == {
        "model": "theirs", "stream": True, "temperature": 0.0, "stop": ["x"], "seed": 3, "max_tokens": 9,
    }  # fmt: skip
    assert piped("refuse\nfail\ncut\n", "--url", url, "--model", "mine", monkeypatch=monkeypatch) == 1
    out, err = capsys.readouterr()
    assert out == "Wie schön: fail\nWie schön: cut\n" and Server.asked[-1][0]["model"] == "mine"
    assert "HTTP 400, too long" in err and "out of memory" in err and "ended the stream before the answer's end" in err


def test_nobody_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert piped("a\n", "--url", "http://127.0.0.1:9", monkeypatch=monkeypatch) == 2
    assert "fastserve chat: error: no connection to http://127.0.0.1:9" in capsys.readouterr().err
    pytest.importorskip("torch")
    assert piped("a\n", "--model", str(tmp_path / "none"), monkeypatch=monkeypatch) == 2
    assert "There is no folder" in capsys.readouterr().err
    assert piped("a\n", "--model", "embedded", "--temperature", "-1", monkeypatch=monkeypatch) == 2
    assert "temperature" in capsys.readouterr().err


@pytest.mark.usefixtures("one_thread")
def test_a_model_in_this_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from tests.backends.torch import families

    flags = ["--model", "embedded", "--dtype", "float32", "--max-tokens", "12", "--temperature", "0", "--ignore-eos"]
    assert piped("Hi\nAgain\n", *flags, monkeypatch=monkeypatch) == 0
    out, err = capsys.readouterr()
    assert len(out.replace("\n", "")) >= 20 and "untrained" in err and "(cut at --max-tokens)" in err
    assert piped("Hi\n", *flags, monkeypatch=monkeypatch) == 0
    assert out.startswith(capsys.readouterr().out)
    assert piped("x" * 5000 + "\nHi\n", *flags, monkeypatch=monkeypatch) == 1
    again, err = capsys.readouterr()
    assert out.startswith(again) and re.search(r"fastserve chat: .*4,?096", err)
    families.write(tmp_path, "llama")
    assert piped("Hi\n", "--model", str(tmp_path), monkeypatch=monkeypatch) == 2
    assert "has no chat template; fastserve generate goes on with a text instead" in capsys.readouterr().err


SLOW = """
import sys, time
from fastserve.cli.chat import Chat

class Slow:
    name = "slow"
    def answer(self, messages):
        try:
            for turn in range(100_000 if messages[-1]["content"] == "slow" else 2):
                yield f"[{len(messages)}.{turn}]"
                time.sleep(0.001)
        finally:
            print("closed", file=sys.stderr)
        return "stop"

sys.exit(Chat(Slow(), None, sys.stdin, sys.stdout).run())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_in_a_terminal_ctrl_c_stops_the_answer_and_not_the_program() -> None:
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=environment, preexec_fn=lambda: _own_terminal(theirs),
    )  # fmt: skip
    os.close(theirs)
    said = ""

    def wait_for(pattern: str, again: bytes = b"") -> None:
        nonlocal said
        until = time.monotonic() + PATIENCE
        pressed = time.monotonic()
        while not re.search(pattern, said):
            assert time.monotonic() < until, f"{pattern!r} never came: {said[-500:]}"
            if select.select([ours], [], [], 0.05)[0]:
                said += os.read(ours, 1 << 16).decode()
            elif again and time.monotonic() > pressed + 1:
                pressed = time.monotonic()
                os.write(ours, again)

    try:
        wait_for("> ")
        os.write(ours, b"slow\n")
        wait_for(r"\[1\.3\]")
        os.write(ours, b"\x03")
        wait_for(r"closed[\s\S]*\(stopped\)|\(stopped\)[\s\S]*closed")
        os.write(ours, b"quick\n")
        wait_for(r"\[3\.1\]\s*closed\s*> ")  # the stopped answer is part of the conversation
        os.write(ours, b"\x03")
        # readline has its prompt out before it listens to signals
        wait_for(r"\(/exit or Ctrl-D leaves\)", again=b"\x03")
        os.write(ours, b"/exit\n")
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _own_terminal(terminal: int) -> None:
    """Makes it the process's controlling terminal, so that Ctrl-C is a signal, also where this process ignores it (as
    what a shell starts in the background does).
    """
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
