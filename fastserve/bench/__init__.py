"""Open-loop benchmark client: sends a schedule of calls to a server on time and measures the responses.

Read: call, schedule, api_formats, api, loop, result, metrics, document, report.

calls = calls_of(trace, IdPrompts(100, 1000))
api = HttpApi("http://127.0.0.1:8000", Completions(RequestOptions(model="embedded")))
result = await run(calls, api)
result.columns(), result.summary()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastserve.bench.api import HttpApi
    from fastserve.bench.api_formats import FORMATS, Chat, Completions, Format, Native, NoBatch, RequestOptions
    from fastserve.bench.call import Call, Reply
    from fastserve.bench.document import About, as_document
    from fastserve.bench.loop import Api, Progress, run
    from fastserve.bench.metrics import Selection
    from fastserve.bench.prompts import IdPrompts, TextPrompts
    from fastserve.bench.result import Result, Sample
    from fastserve.bench.schedule import calls_of
    from fastserve.bench.target import Target, TargetClient

__all__ = [
    "FORMATS",
    "About",
    "Api",
    "Call",
    "Chat",
    "Completions",
    "Format",
    "HttpApi",
    "IdPrompts",
    "Native",
    "NoBatch",
    "Progress",
    "Reply",
    "RequestOptions",
    "Result",
    "Sample",
    "Selection",
    "Target",
    "TargetClient",
    "TextPrompts",
    "as_document",
    "calls_of",
    "run",
]

_MODULES = {
    "About": "document",
    "TargetClient": "target",
    "RequestOptions": "api_formats",
    "Api": "loop",
    "Call": "call",
    "Chat": "api_formats",
    "Completions": "api_formats",
    "Format": "api_formats",
    "FORMATS": "api_formats",
    "HttpApi": "api",
    "IdPrompts": "prompts",
    "Native": "api_formats",
    "NoBatch": "api_formats",
    "Progress": "loop",
    "Reply": "call",
    "Result": "result",
    "Sample": "result",
    "Selection": "metrics",
    "Target": "target",
    "TextPrompts": "prompts",
    "calls_of": "schedule",
    "as_document": "document",
    "run": "loop",
}


_OLD = {
    "Asker": "TargetClient", "Asking": "RequestOptions", "FORMS": "FORMATS", "Form": "Format", "Backend": "Api",
    "HttpBackend": "HttpApi",
}  # fmt: skip
"""Names of the last release, which still work in this one."""


def __getattr__(name: str) -> Any:
    """Imported at first use: `fastserve bench --help` needs neither numpy nor httptools."""
    name = _OLD.get(name, name)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
