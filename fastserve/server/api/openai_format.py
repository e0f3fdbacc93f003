"""Responses and SSE chunks in OpenAI's formats. Chunks are formatted by hand for speed: there is one a token."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastserve.engine import Output
from fastserve.engine.request import Piece
from fastserve.engine.token_text import Offsets
from fastserve.server.api.dependencies import STATUS, failure_message
from fastserve.server.api.errors import encoded, openai_body
from fastserve.server.api.openai_schema import Generation
from fastserve.server.jobs.jobs import Group, cached_tokens
from fastserve.server.service import Service

AT_ONCE = 64
"""Tokens whose log probabilities are written in one go."""

DONE = b"data: [DONE]\n\n"


class ReplyState:
    """State shared by both formats. Choice i belongs to prompt i // each. top: number of top logprobs requested.

    each: choices of a prompt. as_ids: tokens of logprobs are written as ids, in vLLM's way; always where there is no
    tokenizer.
    """

    def __init__(
        self,
        service: Service,
        group: Group,
        prompts: Sequence[Sequence[int]],
        body: Generation,
        top: int,
    ) -> None:
        options = body.stream_options
        self.as_ids = body.return_tokens_as_token_ids or service.engine.tokenizer is None
        self.with_ids = bool(body.return_token_ids)
        self.service = service
        self.group = group
        self.prompts = [len(prompt) for prompt in prompts]
        self.each = body.choices
        self.ends_with_usage = bool(options and options.include_usage)
        self.counts = bool(options and options.include_usage and options.continuous_usage_stats)
        self.top = top
        self.pieces = service.tokenization.pieces
        self.skips_special = body.skip_special_tokens is not False
        self.model = group.jobs[0].model
        self.created = int(time.time())
        self.tokens = [0] * len(group.jobs)  # sent so far, by choice

    @property
    def id(self) -> str:
        return self.group.jobs[0].id

    def token(self, id: int) -> str:
        if self.as_ids:
            return f"token_id:{id}"
        assert self.pieces is not None
        return self.pieces.text(id)

    def data(self, id: int) -> bytes:
        """What the token adds to a text."""
        return b"" if self.pieces is None else self.pieces.data(id)

    def hidden(self, id: int) -> bool:
        """Whether the token is left out of the text."""
        return self.skips_special and self.pieces is not None and id in self.pieces.special

    def usage(self) -> dict[str, Any]:
        """Of a request that has ended. What was found in the cache is told where there is one: of each prompt what its
        first choice found, for the others found what that one has computed.
        """
        found = usage(sum(self.prompts), sum(self.tokens))
        if self.service.engine.estimates:
            found = self._counted()
        if self.service.caches_prefixes:
            firsts = [self.group.outputs.get(choice) for choice in range(0, len(self.tokens), self.each)]
            cached = sum([cached_tokens(output) for output in firsts if output is not None])
            found["prompt_tokens_details"] = {"cached_tokens": cached}
        return found

    def _counted(self) -> dict[str, Any]:
        """What a body counted whose own numbers are estimates; where it did not say, they stand and this is told."""
        counts = [None if (output := self.group.outputs.get(choice)) is None else output.counted
                  for choice in range(len(self.tokens))]  # fmt: skip
        prompts = [
            next((one[0] for one in counts[i * self.each : (i + 1) * self.each] if one is not None), None)
            for i in range(len(self.prompts))
        ]
        found = usage(
            sum(here if there is None else there for here, there in zip(self.prompts, prompts, strict=True)),
            sum(here if there is None else there[1] for here, there in zip(self.tokens, counts, strict=True)),
        )
        return found | ({"estimated": True} if None in counts or None in prompts else {})

    def event(self, content: Mapping[str, Any]) -> bytes:
        return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"

    def failure(self, choice: int, piece: Piece) -> bytes:
        """The error event of a choice that failed."""
        job = self.group.jobs[choice]
        status = STATUS[piece.finish_reason]
        return self.event(openai_body(status, failure_message(piece.finish_reason, job.id, job.error)))


def finish_reason(own: str) -> str:
    """OpenAI's word: its clients know of stop and length only, and whoever outgrew the pool has come to a length."""
    return "length" if own == "truncated" else own


class CompletionFormat:
    object = "text_completion"
    prefix = "cmpl-"

    def __init__(self, reply: ReplyState) -> None:
        self.reply = reply
        self.id = self.prefix + reply.id
        head = {"id": self.id, "object": self.chunk_object, "created": reply.created, "model": reply.model}
        self.head = json.dumps(head, separators=(",", ":"))[:-1] + ',"choices":[{"index":'
        self.offsets = [None if reply.pieces is None else Offsets(reply.pieces) for _ in reply.group.jobs]

    @property
    def chunk_object(self) -> str:
        return self.object

    # -- a stream --------------------------------------------------------------------------------------------------

    def opening(self) -> bytes:
        return b""

    def piece(self, choice: int, piece: Piece) -> bytes:
        reply = self.reply
        if piece.finish_reason in STATUS:
            return reply.failure(choice, piece)
        reply.tokens[choice] += 1
        logprobs = "null"
        if piece.logprob is not None:
            logprobs = json.dumps(self.logprobs(choice, [piece]))
        reason = f'"{finish_reason(piece.finish_reason)}"' if piece.finish_reason else "null"
        body = self.delta(piece.text)
        tail = ""
        if reply.counts:
            counts = usage(reply.prompts[choice // reply.each], reply.tokens[choice])
            tail = ',"usage":' + json.dumps(counts)
        if reply.with_ids:
            body += f',"token_ids":[{"" if piece.token_id is None else piece.token_id}]'
        text = f'data: {self.head}{choice},{body},"logprobs":{logprobs},"finish_reason":{reason}}}]{tail}}}\n\n'
        return text.encode("ascii")

    def delta(self, text: str) -> str:
        return f'"text":{json.dumps(text)}'

    def closing(self) -> bytes:
        reply = self.reply
        if not reply.ends_with_usage:
            return DONE
        last = {
            "id": self.id,
            "object": self.chunk_object,
            "created": reply.created,
            "model": reply.model,
            "choices": [],
            "usage": reply.usage(),
        }
        return reply.event(last) + DONE

    # -- one response ----------------------------------------------------------------------------------------------

    def response(self, outputs: Sequence[Output]) -> bytes:
        """JSON. In parts: json.dumps lets no other thread run, and log probabilities may be megabytes."""
        reply = self.reply
        reply.tokens = [len(output.token_ids) for output in outputs]
        head = {"id": self.id, "object": self.object, "created": reply.created, "model": reply.model}
        choices = [self.choice(choice, output) for choice, output in enumerate(outputs)]
        tail = encoded({"usage": reply.usage()})
        return b"".join([encoded(head)[:-1], b',"choices":[', b",".join(choices), b"],", tail[1:], b"\n"])

    def choice(self, choice: int, output: Output) -> bytes:
        found = self.all_logprobs(choice, output)
        lists = b"null" if found is None else b"{%s}" % b",".join([_list(name, found[name]) for name in found])
        ids = {"token_ids": output.token_ids} if self.reply.with_ids else {}
        head = encoded({"index": choice, **self.content(output), **ids})
        tail = encoded({"finish_reason": finish_reason(output.finish_reason)})
        return b"".join([head[:-1], b',"logprobs":', lists, b",", tail[1:]])

    def content(self, output: Output) -> dict[str, Any]:
        return {"text": output.text or ""}

    def all_logprobs(self, choice: int, output: Output) -> dict[str, Any] | None:
        if output.logprobs is None:
            return None
        pieces = [
            Piece(token, "", index, logprob=found[token], top_logprobs=found)
            for index, (token, found) in enumerate(zip(output.token_ids, output.logprobs, strict=False))
        ]
        return self.logprobs(choice, pieces)

    def logprobs(self, choice: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The legacy format of completions: parallel lists."""
        reply = self.reply
        tokens, offsets = [], []
        for piece in pieces:
            assert piece.token_id is not None
            tokens.append(reply.token(piece.token_id))
            shown = b"" if reply.hidden(piece.token_id) else reply.data(piece.token_id)
            told = self.offsets[choice]
            offsets.append(0 if told is None else told.next(shown))
        return {
            "tokens": tokens,
            "token_logprobs": [_finite(piece.logprob) for piece in pieces],
            "top_logprobs": [self._by_text(self.likeliest(piece, chosen=True)) for piece in pieces],
            "text_offset": offsets,
        }

    def _by_text(self, found: Sequence[tuple[int, float]]) -> dict[str, float]:
        """Where two tokens have one text, the less likely goes by its id, as vLLM writes ids."""
        told: dict[str, float] = {}
        for id, logprob in found:
            text = self.reply.token(id)
            told[f"token_id:{id}" if text in told else text] = logprob
        return told

    def likeliest(self, piece: Piece, chosen: bool) -> list[tuple[int, float]]:
        """(id, logprob) of the top tokens at this position, best first. chosen: always with the sampled token."""
        assert piece.token_id is not None
        found = sorted((piece.top_logprobs or {}).items(), key=lambda item: -item[1])[: self.reply.top]
        if chosen and all(id != piece.token_id for id, _ in found):
            found.append((piece.token_id, _finite(piece.logprob)))
        return [(id, _finite(logprob)) for id, logprob in found]


class ChatFormat(CompletionFormat):
    object = "chat.completion"
    prefix = "chatcmpl-"

    @property
    def chunk_object(self) -> str:
        return "chat.completion.chunk"

    def opening(self) -> bytes:
        first = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}'
        return "".join([f"data: {self.head}{choice},{first}\n\n" for choice in range(len(self.offsets))]).encode()

    def delta(self, text: str) -> str:
        return f'"delta":{{"content":{json.dumps(text)}}}'

    def content(self, output: Output) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": output.text, "refusal": None}}

    def logprobs(self, choice: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        content = []
        for piece in pieces:
            assert piece.token_id is not None
            top = [self._logprob(id, logprob) for id, logprob in self.likeliest(piece, chosen=False)]
            content.append({**self._logprob(piece.token_id, _finite(piece.logprob)), "top_logprobs": top})
        return {"content": content}

    def _logprob(self, id: int, logprob: float) -> dict[str, Any]:
        return {"token": self.reply.token(id), "logprob": logprob, "bytes": list(self.reply.data(id))}


def usage(prompt: int, completion: int) -> dict[str, Any]:
    """`usage` in OpenAI's format."""
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def _list(name: str, values: Sequence[Any]) -> bytes:
    parts = [encoded(values[start : start + AT_ONCE])[1:-1] for start in range(0, len(values), AT_ONCE)]
    return encoded(name) + b":[" + b",".join(parts) + b"]"


def _finite(logprob: float | None) -> float:
    """JSON has no infinity: -inf becomes -9999, as in vLLM."""
    return -9999.0 if logprob is None or logprob < -9999.0 else logprob
