"""OpenAi: completions as OpenAI has them, and what vLLM and our own server add: ids both ways, more of sampling.

A chat becomes a prompt by their own template (`/tokenize` with messages), so that a return goes on with the very ids.
Where that cannot be asked for it is a chat completion, and what was answered a last message to be continued.
"""

from __future__ import annotations

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
    parts_of,
    text_of,
    with_answer,
)
from fastserve.backends.upstream.connection import BrokenError, Connection, UpstreamError
from fastserve.backends.upstream.llama_server import sse
from fastserve.backends.upstream.tokenizer import UpstreamTokenizer

PASSED: Final = MORE - {"logprobs"}
"""What vLLM and our own server take beside OpenAI's fields."""

DONE: Final = (b"data: [DONE]", b"data:[DONE]")

LARGEST: Final = 1 << 24
"""Tokens of a vocabulary; a server that names more stands in front of another one itself."""


class OpenAi:
    """extended: vLLM's fields are known. model: by which it is asked, as facts() found it."""

    def __init__(self, name: str = "openai", *, extended: bool = False) -> None:
        self.name = name
        self.extended = extended
        self.model = ""
        self.templates = extended  # whether /tokenize makes a prompt of messages
        self.tokenizer = UpstreamTokenizer()

    def facts(self, connection: Connection, model: str | None) -> Facts:
        listed = connection.ask("GET", "/v1/models").get("data") or []
        self.model = chosen_model(model, [str(one.get("id")) for one in listed], connection.address.url)
        card: dict[str, Any] = next((one for one in listed if one.get("id") == self.model), {})
        about = {"vllm": "vLLM", "fastserve": "FastServe", "tgi": "TGI"}.get(self.name, "OpenAI-compatible server")
        found: dict[str, Any] = {"context": card.get("max_model_len")}
        with suppress(UpstreamError, BrokenError, KeyError, TypeError, ValueError):
            found |= {"fastserve": _of_fastserve, "tgi": _of_tgi}[self.name](connection)
        return Facts(model=self.model, about=about, **found)

    @property
    def lacks(self) -> frozenset[str]:
        return MORE - PASSED if self.extended else MORE

    def prepare(self, connection: Connection, ask: Ask) -> None:
        prompt = ask.prompt
        if prompt.messages is None or prompt.parts or not self.templates:
            return
        try:
            made = connection.ask("POST", "/tokenize", {
                "model": self.model, "messages": prompt.messages, "add_generation_prompt": not prompt.goes_on,
                "continue_final_message": prompt.goes_on,
            })  # fmt: skip
            prompt.parts = [[int(id) for id in made["tokens"]]]
        except UpstreamError as error:
            if error.status not in (404, 405, 501):
                raise
            self.templates = False

    def request(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        params = ask.params
        body: dict[str, Any] = {
            "model": self.model, "max_tokens": ask.most, "stream": True, "stream_options": {"include_usage": True},
            "seed": ask.seed & 0x7FFFFFFF, **common(params),
        }  # fmt: skip
        if self.extended:
            body |= {
                "top_k": max(0, params.top_k or 0), "min_p": params.min_p,
                "repetition_penalty": params.repetition_penalty, "return_token_ids": True,
                "min_tokens": max(0, params.min_tokens - (params.max_tokens or ask.most) + ask.most),
                "skip_special_tokens": params.skip_special_tokens,
                "ignore_eos": params.ignore_eos or params.stop_after is not None,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            }  # fmt: skip
            if params.stop_token_ids:
                body["stop_token_ids"] = list(params.stop_token_ids)
        if ask.prompt.messages is not None and not ask.prompt.parts:
            body["messages"] = with_answer(ask)
            if self.extended and (ask.text or ask.prompt.goes_on):
                body |= {"add_generation_prompt": False, "continue_final_message": True}
            return "/v1/chat/completions", body
        ids = parts_of(ask).ids
        body["prompt"] = text_of(ask, self.tokenizer) if ids is None else ids
        return "/v1/completions", body

    def reader(self, ask: Ask) -> OpenAiReader:
        return OpenAiReader()

    def busy(self, connection: Connection) -> int | None:
        found = metrics(connection)
        names = ("vllm:num_requests_running", "tgi_batch_current_size")
        return next((int(found[name]) for name in names if name in found), None)


class OpenAiReader:
    """What a model thinks before its answer, where a server tells that apart, is put back between <think> tags."""

    def __init__(self) -> None:
        self.thoughts = Thoughts()
        self._ended = False

    def read(self, line: bytes) -> Sequence[Said | Over]:
        event = sse(line)
        if event is None:
            if self._ended or line.strip() not in DONE:
                return ()
            self._ended = True
            return (Over("stop"),)  # of servers that say no more than that it is over
        found: list[Said | Over] = []
        usage = event.get("usage") or {}
        for choice in event.get("choices") or ():
            if choice.get("index"):
                continue
            delta = choice.get("delta") or {}
            thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
            text = self.thoughts.joined(thought, choice.get("text") or delta.get("content") or "")
            ids = choice.get("token_ids")
            if text or ids:
                found.append(Said(text, None if thought else ids, len(ids) if ids else None, usage.get("prompt_tokens"),
                                  choice.get("prompt_token_ids")))  # fmt: skip
            if choice.get("finish_reason"):
                self._ended = True
                found.append(Over("length" if choice["finish_reason"] == "length" else "stop"))
        if usage and (self._ended or not event.get("choices")):
            found.append(Over("", usage.get("prompt_tokens"), usage.get("completion_tokens")))
        return found


class Thoughts:
    """Joins what is thought and what is said to one text, as the model wrote it."""

    def __init__(self) -> None:
        self._thinks = False

    def joined(self, thought: str, text: str) -> str:
        found = ""
        if thought:
            found += thought if self._thinks else f"<think>{thought}"
            self._thinks = True
        if text:
            found += f"</think>{text}" if self._thinks else text
            self._thinks = False
        return found


def metrics(connection: Connection) -> dict[str, float]:
    """Of a /metrics page: the sum of each metric over its labels. Empty where there is none."""
    try:
        page = connection.ask("GET", "/metrics")
    except (UpstreamError, BrokenError):
        return {}
    found: dict[str, float] = {}
    for line in str(page).splitlines():
        name, _, value = line.rpartition(" ")
        if name and not name.startswith("#"):
            with suppress(ValueError):
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
    return found


def _of_fastserve(connection: Connection) -> dict[str, Any]:
    told = connection.ask("GET", "/model")
    return {"slots": int(told["max_batch_size"]), "slots_why": "as its /model says",
            "vocabulary": told["vocab_size"] if told["vocab_size"] < LARGEST else 0}  # fmt: skip


def _of_tgi(connection: Connection) -> dict[str, Any]:
    told = connection.ask("GET", "/info")
    return {"context": int(told["max_total_tokens"])}
