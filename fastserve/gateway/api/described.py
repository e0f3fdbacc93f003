"""What /docs says of the routes that go to an upstream: a sentence, and the fields that the gateway itself reads. All
others are the upstream's, and are passed on.
"""

from __future__ import annotations

from typing import Any, Final

MODEL: Final[dict[str, Any]] = {
    "type": "string",
    "description": "by which an upstream is found; GET /v1/models lists them",
}
PROMPT: Final[dict[str, Any]] = {"description": "text, or token ids, or a list of either"}
STREAM: Final[dict[str, Any]] = {"type": "boolean", "default": False, "description": "events as they come"}
SESSION: Final[dict[str, Any]] = {
    "type": "string",
    "description": "the conversation that this is a turn of: the gateway adds what was said before",
}
MESSAGES: Final[dict[str, Any]] = {
    "type": "array",
    "items": {"type": "object", "properties": {"role": {"type": "string"}, "content": {}}},
}

ROUTES: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "/v1/chat/completions": (
        "Answer a conversation", "OpenAI's chat completions.",
        {"model": MODEL, "messages": MESSAGES, "stream": STREAM, "session_id": SESSION},
    ),
    "/v1/completions": (
        "Complete a prompt", "OpenAI's completions.", {"model": MODEL, "prompt": PROMPT, "stream": STREAM}
    ),
    "/generate": (
        "Complete a prompt, with figures",
        "The native route; servers without it are asked for completions.",
        {"model": MODEL, "prompt": PROMPT, "max_new_tokens": {"type": "integer"}, "stream": STREAM},
    ),
    "/generate/stream": (
        "Complete a prompt, as a stream", "The native stream.",
        {"model": MODEL, "prompt": PROMPT, "max_new_tokens": {"type": "integer"}},
    ),
    "/chat": (
        "Answer a conversation, with figures", "As /generate, with messages.",
        {"model": MODEL, "messages": MESSAGES, "max_new_tokens": {"type": "integer"}, "stream": STREAM,
         "session_id": SESSION},
    ),
    "/v1/generate": (
        "Stream raw text", "Another server's name: `event: ttft`, text, `event: done`.",
        {"model": MODEL, "prompt": PROMPT, "max_new_tokens": {"type": "integer"}},
    ),
    "/v1/generate_nobatch": (
        "Complete a prompt alone", "One at a time, on each upstream.", {"model": MODEL, "prompt": PROMPT}
    ),
    "/stream": ("Stream raw text (curl -d)", "As /v1/generate.", {"model": MODEL, "prompt": PROMPT}),
    "/tokenize": ("Text to token ids", "Of our servers and vLLM.", {"model": MODEL, "prompt": PROMPT}),
    "/detokenize": (
        "Token ids to text", "Of our servers and vLLM.",
        {"model": MODEL, "tokens": {"type": "array", "items": {"type": "integer"}}},
    ),
}  # fmt: skip
"""Path -> summary, description, properties of its body."""


def of(path: str) -> dict[str, Any]:
    """Keywords of add_api_route()."""
    summary, about, properties = ROUTES[path]
    return {
        "summary": summary,
        "description": f"{about} Goes to an upstream with the model; its answer is passed on as it comes.",
        "openapi_extra": body(properties),
    }


def body(properties: dict[str, Any]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads these of its JSON body."""
    schema = {"type": "object", "properties": properties, "additionalProperties": True}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
