"""`fastserve chat`: a conversation in the terminal, with a model in this process or with a running server."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack, suppress
from typing import TextIO

from fastserve.atomic_files import OutputError
from fastserve.backends.loading import loading
from fastserve.backends.options import MODELS
from fastserve.bench.target import TargetError
from fastserve.cli.arguments import (
    adapter_of,
    add_adapter,
    add_model_arguments,
    add_sampling_arguments,
    options_of,
    sampling_of,
)
from fastserve.cli.conversation import AnswerError, EngineTalker, Message, ServerTalker, Talker
from fastserve.importing import missing
from fastserve.named_models import EMBEDDED, at_hand, untrained_note

HELP = "/new begins again, /system TEXT sets the system message, Ctrl-C stops an answer, /exit or Ctrl-D leaves"
MAX_TOKENS = 512
TEMPLATES = "; fastserve generate goes on with a text instead"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"In the conversation: {HELP}. From a pipe each line is a message; only answers are printed then."
    parser.add_argument("--url", help="a running server (OpenAI's API): http://127.0.0.1:8000 for fastserve serve")
    parser.add_argument("--api-key", metavar="KEY", help="bearer token for --url (default: OPENAI_API_KEY, if set)")
    parser.add_argument("--system", metavar="TEXT", help="system message (default: what the chat template says itself)")
    add_sampling_arguments(parser.add_argument_group("sampling"), max_tokens=MAX_TOKENS)
    model = parser.add_argument_group("model, in this process (with --url: --model is the server's name for it)")
    add_model_arguments(model, default=None)
    add_adapter(model)


def run(args: argparse.Namespace) -> int:
    """Talks until it is told to leave. Returns 0; 1 if a message from a pipe was not answered; 2 if nobody is there."""
    with ExitStack() as stack:
        try:
            talker = _server(args) if args.url else _engine(args, stack)
        except ImportError as error:
            return _refuse(missing(error, "engine"))
        except (ValueError, OSError, MemoryError, OutputError, TargetError) as error:
            return _refuse(str(error))
        return Chat(talker, args.system, sys.stdin, sys.stdout).run()


def _server(args: argparse.Namespace) -> Talker:
    fields = {
        name: value
        for name, value in sampling_of(args).items()
        if value is not None and value is not False and value != []
    }
    return ServerTalker(args.url, args.model, args.api_key or os.environ.get("OPENAI_API_KEY"), fields)


def _engine(args: argparse.Namespace, stack: ExitStack) -> Talker:
    from fastserve.engine import Engine, SamplingParams

    params = SamplingParams(**sampling_of(args))
    model = args.model or (at_hand() if args.backend in MODELS else EMBEDDED)
    print(loading(model, args.backend, "fcfs", args.device), file=sys.stderr, flush=True)
    settings = options_of(args)
    engine = stack.enter_context(
        Engine.from_pretrained(model, backend=args.backend, policy="fcfs", max_batch=1, **settings)
    )
    if not getattr(engine.tokenizer, "chat_template", None):
        raise ValueError(f"model {engine.model_name} has no chat template{TEMPLATES}")
    if args.backend in MODELS and (note := untrained_note(model, "fastserve chat")):
        print(note, file=sys.stderr)
    return EngineTalker(engine, params, adapter_of(args, engine))


class Chat:
    """The loop: a message, its answer, the next message. From a terminal with a prompt, else line by line."""

    def __init__(self, talker: Talker, system: str | None, source: TextIO, out: TextIO) -> None:
        self.talker = talker
        self.system = system
        self.source = source
        self.out = out
        self.terminal = source.isatty()
        self.turns: list[Message] = []
        self.failed = False

    def run(self) -> int:
        if self.terminal:
            with suppress(ImportError):
                import readline  # noqa: F401  # input() then edits lines and remembers them
            print(f"{self.talker.name}: {HELP}", file=sys.stderr)
        while (line := self._read()) is not None:
            if not line:
                continue
            if (line.startswith("/") and " " not in line.rstrip()) or line.startswith("/system "):
                if line in ("/exit", "/quit"):
                    break
                self._command(line)
            else:
                self._ask(line)
        return int(self.failed and not self.terminal)

    def _read(self) -> str | None:
        """The next message; None at the end."""
        if not self.terminal:
            line = self.source.readline()
            return line.strip() if line else None
        try:
            return input("> ").strip()
        except KeyboardInterrupt:
            print("\n(/exit or Ctrl-D leaves)", file=sys.stderr)
            return ""
        except EOFError:
            print(file=sys.stderr)
            return None

    def _command(self, line: str) -> None:
        name, _, text = line.partition(" ")
        if name == "/new":
            self.turns.clear()
            self._note("(a new conversation)")
        elif name == "/system":
            self.system = text.strip() or None
            self._note("(the system message is set)" if self.system else "(no system message)")
        else:
            self._note(f"({HELP})")

    def _note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def _ask(self, line: str) -> None:
        """Prints the answer as it comes. What was not answered at all is not remembered; what was stopped is."""
        question = {"role": "user", "content": line}
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        answer = self.talker.answer([*system, *self.turns, question])
        said = ""
        try:
            reason = ""
            try:
                while True:
                    piece = next(answer)
                    said += piece
                    self._say(piece)
            except StopIteration as end:
                reason = end.value
            self._say("\n")
            if reason == "length":
                self._note("(cut at --max-tokens)")
            elif reason == "truncated":
                self._note("(cut: the conversation fills the KV pool; /new begins another)")
        except KeyboardInterrupt:
            if not self.terminal:
                raise
            self._say("\n")
            self._note("(stopped)")
        except AnswerError as error:
            self.failed = True
            self._say("\n" if said else "")
            self._note(f"fastserve chat: {error}{'; /new begins another conversation' if self.turns else ''}")
        finally:
            answer.close()
        if said:
            self.turns += [question, {"role": "assistant", "content": said}]

    def _say(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()


def _refuse(message: str) -> int:
    print(f"fastserve chat: error: {message}", file=sys.stderr)
    return 2
