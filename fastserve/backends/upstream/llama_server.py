"""LlamaServer: llama.cpp's own API. A prompt may mix ids and text; each event tells its tokens and their number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from fastserve.backends.upstream.api import MORE, Ask, Facts, Over, Said, common, parts_of, with_answer
from fastserve.backends.upstream.connection import Connection, UpstreamError, said

PASSED: Final = frozenset(("top_k", "min_p", "repetition_penalty", "ignore_eos", "stop_after"))

DEFAULTS: Final = {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
                   "repetition_penalty": "repeat_penalty"}  # fmt: skip
"""Our name of a sampling field -> llama.cpp's, and so Ollama's."""


class LlamaServer:
    name = "llama.cpp"

    def facts(self, connection: Connection, model: str | None) -> Facts:
        props = connection.ask("GET", "/props")
        models = connection.ask("GET", "/v1/models")
        meta: dict[str, Any] = next(iter(models.get("data", [])), {})
        settings = props.get("default_generation_settings", {})
        theirs = settings.get("params", settings)
        slots, context = int(props["total_slots"]), settings.get("n_ctx")
        return Facts(
            model=model or str(props.get("model_alias") or meta.get("id") or "llama.cpp"),
            about=f"llama.cpp server ({props.get('build_info', 'unknown build')})",
            slots=slots, slots_why="as its /props says", context=context,
            vocabulary=int((meta.get("meta") or {}).get("n_vocab") or 0),
            defaults={ours: theirs[its] for ours, its in DEFAULTS.items() if theirs.get(its) is not None},
        )  # fmt: skip

    lacks = MORE - PASSED

    def prepare(self, connection: Connection, ask: Ask) -> None:
        if ask.prompt.messages is None or ask.prompt.parts:
            return
        made = connection.ask("POST", "/apply-template", {"messages": with_answer(Ask(ask.prompt, ask.params, 0, 0))})
        ask.prompt.parts = [str(made["prompt"])]

    def request(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        params = ask.params
        parts = parts_of(ask).parts
        whole = [item for part in parts for item in ([part] if isinstance(part, str) else part)]
        body: dict[str, Any] = {
            "prompt": whole[0] if len(whole) == 1 and isinstance(whole[0], str) else whole,
            "n_predict": ask.most, "stream": True, "return_tokens": True, "cache_prompt": True,
            "seed": ask.seed & 0x7FFFFFFF, **common(params), "top_k": max(0, params.top_k or 0),
            "min_p": params.min_p, "repeat_penalty": params.repetition_penalty,
        }  # fmt: skip
        if params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty:
            body["repeat_last_n"] = -1  # of all tokens, not of the last 64
        if params.ignore_eos or params.stop_after is not None:
            body["ignore_eos"] = True
        return "/completion", body

    def reader(self, ask: Ask) -> LlamaReader:
        return LlamaReader()

    def busy(self, connection: Connection) -> int | None:
        slots = connection.ask("GET", "/slots")
        return sum(bool(slot.get("is_processing")) for slot in slots) if isinstance(slots, list) else None


class LlamaReader:
    def __init__(self) -> None:
        self._before = 0  # tokens that were told so far

    def read(self, line: bytes) -> Sequence[Said | Over]:
        event = sse(line)
        if event is None:
            return ()
        found: list[Said | Over] = []
        count, prompt = event.get("tokens_predicted"), event.get("tokens_evaluated")
        if "content" not in event:
            raise UpstreamError(f"the upstream sent an event without content: {said(event)}")
        new = None if count is None else max(0, int(count) - self._before)
        text, ids = str(event["content"]), event.get("tokens")
        if event.get("stop") and not text:
            new = 0  # what ended it is no part of it
        if text or new:
            whole = ids if ids and new == len(ids) else None  # those of half a character are not told
            found.append(Said(text, whole, new or (1 if text else 0), prompt))
        self._before = int(count) if count is not None else self._before
        if event.get("stop"):
            kind = event.get("stop_type") or ("limit" if event.get("stopped_limit") else "eos")
            found.append(Over("length" if kind == "limit" else "stop", prompt, count))
        return found


def sse(line: bytes) -> Any:
    """The JSON object of a `data:` line; None for any other line. Raises UpstreamError for an error and for no JSON."""
    line = line.strip()
    if line.startswith(b"error:"):
        raise UpstreamError(said(line[6:].decode(errors="replace").strip()))
    if not line.startswith(b"data:"):
        return None
    data = line[5:].strip()
    if data == b"[DONE]":
        return None
    try:
        event = json.loads(data)
    except ValueError:
        raise UpstreamError(f"the upstream sent what is no JSON: {data[:200].decode(errors='replace')}") from None
    if not isinstance(event, dict):
        raise UpstreamError(f"the upstream sent what is no event: {data[:200].decode(errors='replace')}")
    if event.get("error"):
        raise UpstreamError(said(event))
    return event
