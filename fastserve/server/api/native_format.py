"""SSE streams of the native routes: one JSON event a token, and a last one with the whole response and its timings."""

from __future__ import annotations

import json
import time
from typing import Any

from fastserve.engine.request import Piece
from fastserve.server.api.dependencies import STATUS, failure_message
from fastserve.server.jobs.jobs import Group


class NativeFormat:
    """Stream of one job. chat: the last event also has `message`. ids: each event has `token_ids`."""

    def __init__(self, group: Group, chat: bool = False, ids: bool = False) -> None:
        self.ids = ids
        self.job = group.jobs[0]
        self.chat = chat
        self.started = time.monotonic()
        self.tokens = 0
        self.tail = f'"request_id":"{self.job.id}","job_id":"{self.job.id}","tokens_generated":'

    def opening(self) -> bytes:
        return b""

    def piece(self, choice: int, piece: Piece) -> bytes:
        if piece.token_id is None and not piece.text:
            return b""
        first = ""
        if piece.token_id is not None:
            self.tokens += 1
            if self.tokens == 1:
                first = f',"time_to_first_token":{time.monotonic() - self.started:.6f}'
        if self.ids and piece.token_id is not None:
            first += f',"token_ids":[{piece.token_id}]'
        text = json.dumps(piece.text)
        return f'data: {{"text":{text},"token":{text},{self.tail}{self.tokens}{first},"is_final":false}}\n\n'.encode()

    def closing(self) -> bytes:
        assert self.job.answer is not None
        last: dict[str, Any] = {**response_body(self.job.answer, self.chat)}
        reason = last["finish_reason"]
        last |= {"text": "", "token": "", "is_final": True, "final": True}
        if reason in STATUS:
            last["error"] = failure_message(reason, self.job.id, self.job.error)
        return b"data: " + json.dumps(last, separators=(",", ":")).encode() + b"\n\n"


def response_body(answer: dict[str, Any], chat: bool) -> dict[str, Any]:
    """The response body: for a chat with its `message`."""
    if not chat:
        return answer
    return {**answer, "message": {"role": "assistant", "content": answer["text"]}}
