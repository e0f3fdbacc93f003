"""Paths as clients write them: doubled and trailing slashes, base URLs without /v1, and routes that are not served."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

CHAT = "use POST /v1/chat/completions"
TEXT_ONLY = "this server generates text only"
ELSEWHERE = {
    "responses": f"OpenAI's Responses API is not served: {CHAT} (in langchain-openai use_responses_api=False)",
    "messages": f"Anthropic's Messages API is not served: {CHAT}, with a client for OpenAI's API",
    "complete": "Anthropic's API is not served: use POST /v1/completions, with a client for OpenAI's API",
    "embeddings": f"{TEXT_ONLY}, and makes no embeddings: ask a server for embedding models",
    "rerank": f"{TEXT_ONLY}, and ranks no documents: ask a server for reranking models",
    "score": f"{TEXT_ONLY}, and scores no pairs: ask a server for scoring models",
    "classify": f"{TEXT_ONLY}, and classifies nothing: ask a server for classifiers",
    "pooling": f"{TEXT_ONLY}, and makes no embeddings: ask a server for embedding models",
    "moderations": f"{TEXT_ONLY}, and moderates none: ask a server for moderation models",
    "images": f"{TEXT_ONLY}, and makes no images",
    "audio": f"{TEXT_ONLY}, and neither hears nor speaks",
    "videos": f"{TEXT_ONLY}, and makes no videos",
    "realtime": f"{TEXT_ONLY}, and has no realtime API: {CHAT} with stream set to true",
    "batches": "there are no batches of files: send the requests one by one, or as durable jobs to POST /jobs",
    "files": "no files are kept here: send the text in the request",
    "uploads": "no files are kept here: send the text in the request",
    "vector_stores": "no files are kept here: send the text in the request",
    "fine_tuning": "models are served and not trained here",
    "edits": f"OpenAI's edits are not served: {CHAT}",
    "engines": "OpenAI's engines have become models: use GET /v1/models and POST /v1/completions",
    "assistants": f"OpenAI's Assistants API is not served: {CHAT}, with the whole conversation in each request",
    "threads": f"OpenAI's Assistants API is not served: {CHAT}, with the whole conversation in each request",
    "conversations": f"OpenAI's Conversations API is not served: {CHAT}, with the whole conversation in each request",
}
"""First part of a path of APIs that clients of this kind know, behind /v1 or without it -> what to do instead."""

OPENAI = "clients for OpenAI's API want this server's address with /v1 as their base URL"


def clean_path(path: str) -> str:
    """Without doubled slashes, as /v1//models has them, and of OpenAI's routes without one at the end."""
    if "//" in path:
        path = re.sub("/+", "/", path)
    bare = path.rstrip("/")
    return bare if bare == "/models" or (bare and uses_openai_errors(bare)) else path


def uses_openai_errors(path: str) -> bool:
    """Whether errors at this path have OpenAI's format: under /v1, and where clients go whose base URL lacks it."""
    first, _, rest = path.lstrip("/").partition("/")
    if first == "v1":
        return not rest.startswith("generate")
    return path in ("/completions", "/chat/completions") or path.startswith("/models/") or first in ELSEWHERE


def not_served(method: str, path: str, routes: Iterable[str]) -> str:
    """The error message for a path that no route has. routes: the paths there are."""
    parts = path.strip("/").split("/")
    known = [part for part in parts if part != "v1"]
    what = f"there is no route {method} {path[:100]}"
    if parts[:2] == ["v1", "v1"]:
        return f"{what}: the base URL ends with /v1 twice, once is right"
    if parts[:2] in (["v1", "chat"], ["v1", "completions"]) and parts[-1] == "completions" and len(parts) > 3:
        return f"{what}: the base URL ends with a route, it has to end with /v1"
    if parts[0] == "openai":
        return f"{what}: Azure's paths are not served; {OPENAI}"
    if parts[0] == "api":
        return f"{what}: Ollama's API is not served, OpenAI's is: {OPENAI}"
    if known and known[0] in ELSEWHERE:
        return f"{what}: {ELSEWHERE[known[0]]}"
    near = get_close_matches(path, [route for route in routes if "{" not in route], 1, 0.75)
    if near:
        return f"{what}; there is {near[0]}"
    return f"{what}: see /docs for those there are; {OPENAI}"


def not_allowed(method: str, path: str, allowed: str) -> str:
    """The error message for a method that the route at this path does not have."""
    return f"{path[:100]} does not take {method}: use {allowed or 'another method'}"
