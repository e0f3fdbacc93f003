"""Ollama: its own API, a JSON object a line. Text alone goes in: a prompt raw, a chat by the template of its model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from fastserve.backends.upstream.api import (
    MORE,
    Ask,
    Facts,
    Over,
    Said,
    chosen_model,
    common,
    text_of,
    with_answer,
)
from fastserve.backends.upstream.connection import BrokenError, Connection, UpstreamError, said
from fastserve.backends.upstream.openai import Thoughts
from fastserve.backends.upstream.tokenizer import UpstreamTokenizer
from fastserve.ollama_api import OPTIONS, parameters

PASSED: Final = frozenset(("top_k", "min_p", "repetition_penalty"))
USUAL_CONTEXT: Final = 4096
"""Tokens for which Ollama makes room where neither its model nor a request says otherwise."""

SAMPLED: Final = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""Options whose defaults its models state."""

USUAL: Final = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Its own defaults, where a model says nothing."""


class Ollama:
    """context: tokens for which it shall make room with each request (num_ctx); None: as it is."""

    name = "ollama"

    def __init__(self, context: int | None = None) -> None:
        self.context = context
        self.model = ""
        self.tokenizer = UpstreamTokenizer()

    def facts(self, connection: Connection, model: str | None) -> Facts:
        version = connection.ask("GET", "/api/version").get("version", "unknown version")
        there = [str(one.get("name")) for one in connection.ask("GET", "/api/tags").get("models") or ()]
        self.model = chosen_model(model, there, connection.address.url)
        shown = connection.ask("POST", "/api/show", {"model": self.model})
        stated = parameters(str(shown.get("parameters") or ""))
        longest = next((value for name, value in (shown.get("model_info") or {}).items()
                        if name.endswith(".context_length")), None)  # fmt: skip
        context = self.context or int(stated.get("num_ctx") or self._loaded(connection) or USUAL_CONTEXT)
        asked_for = os.environ.get("OLLAMA_NUM_PARALLEL", "")
        told = asked_for.isdigit() and int(asked_for) > 0
        return Facts(
            model=self.model, about=f"Ollama {version}",
            slots=int(asked_for) if told else 1,
            slots_why="OLLAMA_NUM_PARALLEL here" if told else
            "Ollama does not say how many it serves at once: give upstream_slots, as its OLLAMA_NUM_PARALLEL",
            context=min(context, int(longest)) if longest else context,
            defaults=USUAL | {name: stated[OPTIONS[name]] for name in SAMPLED if OPTIONS[name] in stated},
        )  # fmt: skip

    def _loaded(self, connection: Connection) -> int | None:
        """The context for which the model is loaded now, if it is."""
        with suppress(UpstreamError, BrokenError, AttributeError):
            for one in connection.ask("GET", "/api/ps").get("models") or ():
                if one.get("name") == self.model and one.get("context_length"):
                    return int(one["context_length"])
        return None

    lacks = MORE - PASSED

    def prepare(self, connection: Connection, ask: Ask) -> None:
        """It makes no prompt of messages for others."""

    def request(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        params = ask.params
        asked: dict[str, Any] = {"max_tokens": ask.most, "seed": ask.seed & 0x7FFFFFFF, **common(params),
                                 "top_k": max(0, params.top_k or 0), "min_p": params.min_p,
                                 "repetition_penalty": params.repetition_penalty}  # fmt: skip
        options = {OPTIONS[name]: value for name, value in asked.items()}
        if self.context is not None:
            options["num_ctx"] = self.context
        body: dict[str, Any] = {"model": self.model, "stream": True, "options": options}
        if ask.prompt.messages is not None:
            return "/api/chat", body | {"messages": with_answer(ask)}
        return "/api/generate", body | {"prompt": text_of(ask, self.tokenizer), "raw": True}

    def reader(self, ask: Ask) -> OllamaReader:
        return OllamaReader()

    def busy(self, connection: Connection) -> int | None:
        return None


class OllamaReader:
    def __init__(self) -> None:
        self.thoughts = Thoughts()

    def read(self, line: bytes) -> Sequence[Said | Over]:
        line = line.strip()
        if not line:
            return ()
        try:
            event = json.loads(line)
        except ValueError:
            raise UpstreamError(f"the upstream sent what is no JSON: {line[:200].decode(errors='replace')}") from None
        if not isinstance(event, dict) or event.get("error"):
            raise UpstreamError(said(event))
        message = event.get("message") or {}
        text = self.thoughts.joined(
            message.get("thinking") or event.get("thinking") or "",
            event.get("response") or message.get("content") or "",
        )
        found: list[Said | Over] = [Said(text)] if text else []
        if event.get("done"):
            reason = "length" if event.get("done_reason") == "length" else "stop"
            found.append(Over(reason, event.get("prompt_eval_count"), event.get("eval_count")))
        return found
