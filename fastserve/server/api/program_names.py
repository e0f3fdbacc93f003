"""Which program a request belongs to, which tool its prompt brings the result of, and whether it is the last: in the
words of the clients that there are. TABLE has all of them, in their order of precedence.

The program is that of the first row that names one, and so is its parent; a tool and an end are those of the first row
that tells them, whichever row named the program. Our own words come first, the body before the headers (a proxy may
have added those), and what may name more than one program (a tenant, a kind of prompt) last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, WrapValidator
from pydantic import ValidatorFunctionWrapHandler as Handler

from fastserve.server.api.errors import ApiError
from fastserve.server.api.fields import MAX_NAME, lone_surrogate


class Row(NamedTuple):
    """What one kind of client says, each a header's name, or a field of the body with dots into what it holds.

    parent: of a subagent, the session that it works for; its requests belong to that one's program. tool: whose result
    the prompt brings. calls: the tool that the answer will call. told: whether a value of a wrong type is an error, as
    in the system of this name, or is ignored, as there.
    """

    system: str
    program: str = ""
    parent: str = ""
    final: str = ""
    tool: str = ""
    calls: str = ""
    told: bool = True


BODY = (
    Row("FastServe", "program", final="final", tool="tool"),
    Row("ThunderAgent", "program_id"),
    Row("ThunderAgent", "extra_body.program_id", told=False),
    Row("Continuum", "job_id", final="is_last_step", tool="last_func_call", calls="this_func_call"),
    Row("CacheWise", "cachewise_policy.scope.session_id", calls="cachewise_policy.hints.next_tool.name", told=False),
    Row("Dynamo", "nvext.agent_context.session_id", "nvext.agent_context.parent_session_id",
        "nvext.agent_context.session_final"),
    Row("Dynamo", "nvext.session_control.session_id", final="nvext.session_control.action"),
    Row("SGLang", "session_params.id"),
)  # fmt: skip
HEADERS = (
    Row("Dynamo", "X-Dynamo-Session-ID", "X-Dynamo-Parent-Session-ID", "X-Dynamo-Session-Final"),
    Row("Claude Code", "X-Claude-Code-Session-ID"),  # X-Claude-Code-Parent-Agent-ID: within the same session
    Row("Codex", "Session-ID"),  # its subagents have threads of their own in it: Thread-ID
    Row("Codex", "Session_ID", "X-Codex-Parent-Thread-ID"),
    Row("OpenCode, llm-d", "X-Session-ID", "X-Parent-Session-ID", "X-Session-Final"),
    Row("OpenCode, load generators", "X-Session-Affinity", "X-Parent-Session-ID"),
    Row("SGLang", "X-SMG-Routing-Key"),
    Row("llm-d", "X-LLM-D-Inference-Fairness-ID"),
)
LAST = (Row("OpenAI", "prompt_cache_key"),)

TABLE = (*BODY, *HEADERS, *LAST)

WANTED = {
    name.lower().encode(): name
    for row in HEADERS
    for name in (row.program, row.parent, row.final)
    if name
}  # fmt: skip
"""Header, as ASGI writes it -> its name in the table."""

YES, NO = ("true", "1", "yes", "close"), ("false", "0", "no", "open", "")
"""Values of a header, and of Dynamo's session_control.action, that say that nothing follows, or that something may."""

TEXT = f"text of at most {MAX_NAME} characters"


class Named(NamedTuple):
    """What a request says; empty where it says nothing. program, parent: as the client writes them."""

    program: str = ""
    parent: str = ""
    tool: str = ""
    calls: str = ""
    final: bool = False


def name_of(value: Any) -> str | None:
    """A name as text; None where it is not given. Raises ValueError for what cannot be one."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 1 << 64 else None
    if not isinstance(value, str):
        raise ValueError(f"it must be {TEXT}, or a whole number")
    if len(value) > MAX_NAME:
        raise ValueError(f"it has {len(value)} characters; send at most {MAX_NAME}")
    if (fault := lone_surrogate(value)) is not None:
        raise ValueError(fault)
    return value.strip() or None


def yes(value: Any) -> bool | None:
    """An end; None where it is not given. Raises ValueError for what does not say it."""
    if value is None or isinstance(value, bool):
        return value
    said = value.strip().lower() if isinstance(value, str) else None
    if said not in (*YES, *NO):
        raise ValueError("it must be true or false")
    return said in YES


READERS: dict[str, Callable[[Any], Any]] = {
    "program": name_of, "parent": name_of, "tool": name_of, "calls": name_of, "final": yes,
}  # fmt: skip


def told(field: str) -> AfterValidator:
    """A field of the body that holds others: those of the table are of a right type, where their system says so."""
    paths = [
        (path.split(".")[1:], READERS[slot])
        for row in BODY
        if row.told
        for slot, path in row._asdict().items()
        if slot in READERS and path.partition(".")[0] == field
    ]

    def check(value: Any) -> Any:
        if value is not None and not isinstance(value, dict):
            raise ValueError("it must be an object")
        for path, read in paths:
            try:
                read(inner(value, path))
            except ValueError as error:
                raise ValueError(f"{'.'.join(path)}: {error}") from None
        return value

    return AfterValidator(check)


def read_by(read: Callable[[Any], Any]) -> WrapValidator:
    """The value as this reader has it."""

    def check(value: Any, _: Handler) -> Any:
        return read(value)

    return WrapValidator(check)


Id = Annotated[str | None, read_by(name_of)]
End = Annotated[bool | None, read_by(yes)]
Anything = Any


class ProgramFields(BaseModel):
    """The fields of BODY and LAST, on native and OpenAI's routes. Null means not given."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    program: Id = None
    """session or agent run that it belongs to; other clients' names for it, headers too, are known as well"""
    tool: Id = None
    """the tool whose result its prompt brings; of a chat its messages say it too"""
    final: End = None
    """true: nothing of its program follows"""
    program_id: Id = None
    """ThunderAgent's name for program"""
    job_id: Id = None
    """Continuum's name for program"""
    is_last_step: End = None
    """Continuum's name for final"""
    last_func_call: Id = None
    """Continuum's name for tool"""
    this_func_call: Id = None
    """Continuum's name for the tool that the answer will call"""
    extra_body: Anything = None
    """where ThunderAgent's clients may have put program_id"""
    cachewise_policy: Anything = None
    """CacheWise's scope.session_id (program) and hints.next_tool.name"""
    nvext: Annotated[dict[str, Any] | None, told("nvext")] = None
    """Dynamo's agent_context, session_control (program, final) and agent_hints (priority, osl)"""
    session_params: Annotated[dict[str, Any] | None, told("session_params")] = None
    """SGLang's session: id is the program"""
    prompt_cache_key: Id = None
    """OpenAI's key of prompts that begin alike: the program, where nothing else names one"""
    prompt_cache_retention: Anything = None
    """OpenAI's; nothing here is kept for a time that a request asks for"""


def inner(value: Any, path: Iterable[str]) -> Any:
    """What an object holds at this path; None where it holds nothing there."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def named(body: ProgramFields, headers: Iterable[tuple[bytes, bytes]]) -> Named:
    """headers: as ASGI has them. Raises ApiError 400 for one that is longer than a name may be."""
    given = dict(_headers(headers))
    found: dict[str, Any] = {}
    for row, values in _values(body, given):
        for slot in ("program", "tool", "calls", "final"):
            if found.get(slot) is None and getattr(row, slot):
                found[slot] = _read(row, slot, values)
                if slot == "program" and found[slot] is not None and row.parent:
                    found["parent"] = _read(row, "parent", values)
    return Named(*[found.get(slot) or default for slot, default in Named._field_defaults.items()])


def _values(body: ProgramFields, given: Mapping[str, str]) -> Iterator[tuple[Row, Callable[[str], Any]]]:
    """Each row of the table, with what looks up a name of it."""

    def field(path: str) -> Any:
        first, *rest = path.split(".")
        return inner(getattr(body, first), rest)

    for row in BODY:
        yield row, field
    for row in HEADERS if given else ():
        yield row, given.get
    for row in LAST:
        yield row, field


def _read(row: Row, slot: str, values: Callable[[str], Any]) -> Any:
    name = getattr(row, slot)
    try:
        return READERS[slot](values(name))
    except ValueError as error:
        if row in HEADERS and slot != "final":
            raise ApiError(400, f"{name}: {error}") from None
        return None  # what is told of a body was told when it was validated


def _headers(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    """Those of the table, the first of each name. As UTF-8, in which a body would write the same name."""
    seen = set()
    for name, value in headers:
        known = WANTED.get(name)
        if known is not None and known not in seen:
            seen.add(known)
            try:
                yield known, value.decode("utf-8")
            except UnicodeDecodeError:
                yield known, value.decode("latin-1")
