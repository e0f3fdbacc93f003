"""Column mapping: by the names that published traces use, or by --columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default

from fastserve.workload.errors import TraceError
from fastserve.workload.reader.formats import Format, known, plain
from fastserve.workload.reader.parse import UNITS

_SYNONYMS: dict[str, str] = {
    "arrival": "arrival_s arrival_ms arrival_us arrival_ns arrived_at arrival_time arrival_time_s arrival_time_ms "
    "arrival_time_us arrival_time_ns arrival_timestamp arrival_timestamp_s arrival_timestamp_ms arrival_timestamp_us "
    "arrival_timestamp_ns arrival timestamp_ms timestamp_s timestamp_us timestamp_ns timestamp_start_unix_ms timestamp "
    "request_time req_time start_time start_time_s start_time_ms start_time_us start_time_ns request_timestamp time "
    "time_s time_ms time_us time_ns datetime ts ts_ms t",
    "prompt": "prompt_tokens num_prefill_tokens input_length context_tokens request_tokens input_tokens prompt_length "
    "prompt_len input_len num_prompt_tokens num_input_tokens prompt_size input_toks input_token_num "
    "number_input_tokens isl in prompt",
    "output": "output_tokens num_decode_tokens output_length generated_tokens response_tokens completion_tokens "
    "output_len num_output_tokens token_size output_toks output_token_num "
    "number_output_tokens response_length response_len osl out output",
    "client": "client client_id user user_id tenant tenant_id",
    "program": "program program_id session session_id conversation_id",
    "priority": "priority",
    "slo_class": "slo_class",
    "ttft_slo": "slo_ttft_ms ttft_slo_ms",
    "tpot_slo": "slo_tpot_ms tpot_slo_ms",
    "e2e_slo": "slo_e2e_ms e2e_slo_ms",
    "max_tokens": "max_tokens max_completion_tokens",
    "guess": "guess num_predicted_decode_tokens predicted_output_tokens",
    "hash_ids": "hash_ids",
    "block_size": "block_size",
}
"""Field -> known column names, the likeliest first; compared without case, spaces and underscores."""

_SESSION_SYNONYMS: dict[str, str] = {
    "after": "after parent parent_id parent_chat_id parent_request_id",
    "think": "think_s think_ms think_us think_ns think_time think delay_s delay_ms delay_us delay_ns delay",
    "id": "request_id id chat_id",
    "turn": "turn turn_index round_index round_idx",
    "duration": "duration_e2e_ms api_time duration_ms duration_s",
    "tool": "tool tool_name",
    "scope": "scope",
}
"""Those of files whose requests wait for one another; of any other file these columns are ignored."""

_TIMES = frozenset({"arrival", "ttft_slo", "tpot_slo", "e2e_slo", "think", "duration"})
TEXTS = frozenset({"client", "program", "slo_class", "id", "tool", "scope"})

_UNIT = "s|secs?|seconds?|ms|msecs?|millis|milliseconds?|us|usecs?|micros|microseconds?|ns|nsecs?|nanos|nanoseconds?"
_SUFFIX = re.compile(
    rf"(?i:[_\s.(\[]+(?:unix_?)?({_UNIT})[)\]]?$)|(?<=[a-z])(Ms|Us|Ns|Secs?|Seconds|Millis|Micros|Nanos)$|"
    r"(?<=time|tamp|ival)(ms|us|ns)$"
)
"""The unit at the end of a column's name: arrival_ms, "Time (us)", timestampMs."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of one file hold what."""

    names: dict[str, tuple[str, ...]]
    """Field -> columns: of numbers their sum, of texts the first that is not empty."""
    units: dict[str, str]
    """Of the fields that are times. The arrival's is missing where neither --columns nor the name tells it."""
    given: frozenset[str]
    """Fields that --columns names or (of a time) gives a unit."""
    off: frozenset[str]
    """Fields that --columns switches off."""
    format: Format | None
    waits: bool = False
    """Whether requests of the file wait for one another: it says which for which, or how long after the last one of
    its program each comes."""

    def wanted(self) -> dict[str, bool]:
        """Column -> whether it is text."""
        return {name: field in TEXTS for field, names in self.names.items() for name in names}

    def extended(self, found: Sequence[str], path: str) -> None:
        """Takes in optional columns that turn up late in a JSON file.

        TraceError for those that make it one of requests that wait for one another: the rows so far were read as if
        they did not.
        """
        late = {} if self.waits else _by_name(found, True)
        for field in ("after", "think"):
            if field in late and field not in self.off and ("program" in self.names or field == "after"):
                raise TraceError(
                    f"column {late[field]!r}, by which requests wait for one another, comes late in the file, and its "
                    f"first rows seem to come by themselves; move a row that has it to the top, or leave it out: "
                    f"--columns {field}=",
                    path,
                )
        for field, names in _by_name(found, self.waits).items():
            if field not in self.names and field not in self.off and field not in ("arrival", "prompt", "output"):
                self.names[field] = (names,)
                if field in _TIMES:
                    self.units[field] = "ms"


def resolve(found: Sequence[str], spec: str | None, path: str) -> Columns:
    """Columns named in `spec` (arrival=ts:ms,prompt=a+b,output=c,priority=) first, then the known names.

    The result always has prompt and output; a file without an arrival column is a set of lengths. TraceError lists
    the columns found.
    """
    given = _parse(spec, found, path)
    names, units = dict(given.names), dict(given.units)
    format = known(found)
    for field, columns in ({} if format is None else format.columns).items():
        there = {plain(name): name for name in reversed(found)}
        held = tuple(there[plain(column)] for column in columns if plain(column) in there)
        if held and field not in names and field not in given.off:
            names[field] = held
    for field, name in _by_name(found, True).items():
        if field not in given.off:
            names.setdefault(field, (name,))
    rounds, one = (False, False) if format is None else (format.rounds, format.one_program)
    waits = "after" in names or (("program" in names or one) and ("think" in names or rounds))
    if not waits:
        for field in _SESSION_SYNONYMS.keys() - given.names.keys() - ({} if format is None else format.columns).keys():
            names.pop(field, None)
    lost = [field for field in ("prompt", "output") if field not in names]
    if lost:
        raise TraceError(
            f"cannot tell which column holds the {' and the '.join(lost)} tokens; columns found: {', '.join(found)}. "
            "Name them: --columns arrival=NAME:s|ms|us|ns,prompt=NAME,output=NAME",
            path,
        )
    for field in _TIMES & names.keys():
        unit = unit_in(names[field][0])
        if field in ("think", "duration"):
            unit = unit or ("s" if format is None or format.unit is None else format.unit)
        elif field != "arrival":
            unit = "ms"
        if unit is not None:
            units.setdefault(field, unit)
    return Columns(names, units, frozenset(given.names) | frozenset(given.units), given.off, format, waits)


def unit_in(name: str) -> str | None:
    """The unit that a column's name ends in."""
    match = _SUFFIX.search(name)
    if match is None:
        return None
    text = next(group for group in match.groups() if group).lower()
    return "s" if text.startswith("s") else "ms" if text.startswith("m") and not text.startswith("micro") else (
        "ns" if text.startswith("n") else "us"
    )  # fmt: skip


def _by_name(found: Sequence[str], waits: bool) -> dict[str, str]:
    """Field -> the likeliest of the columns found. waits: those of sessions too."""
    known_names = {plain(name): name for name in reversed(found)}
    hits: dict[str, str] = {}
    for field, synonyms in (_SYNONYMS | (_SESSION_SYNONYMS if waits else {})).items():
        hit = next((known_names[plain(s)] for s in synonyms.split() if plain(s) in known_names), None)
        if hit is not None:
            hits[field] = hit
    if "arrival" not in hits:
        bare = {plain(name[: match.start()]): name for name in reversed(found) if (match := _SUFFIX.search(name))}
        hit = next((bare[plain(s)] for s in _SYNONYMS["arrival"].split() if plain(s) in bare), None)
        hits |= {} if hit is None else {"arrival": hit}
    return hits


@dataclass(slots=True)
class _Given:
    names: dict[str, tuple[str, ...]] = default(default_factory=dict)
    units: dict[str, str] = default(default_factory=dict)
    off: frozenset[str] = frozenset()


def _parse(spec: str | None, found: Sequence[str], path: str) -> _Given:
    given = _Given()
    fields = [*_SYNONYMS, *_SESSION_SYNONYMS]
    for part in (spec or "").split(","):
        if not part.strip():
            continue
        field, equals, column = (text.strip() for text in part.partition("="))
        if field not in fields or not equals:
            raise TraceError(
                f"cannot read {part.strip()!r} in --columns; write FIELD=NAME, FIELD=NAME:UNIT, FIELD=NAME+NAME for a "
                f"sum, or FIELD= to leave one out, where FIELD is one of {', '.join(fields)} and UNIT one of "
                f"{', '.join(UNITS)}"
            )
        if not column:
            if field in ("prompt", "output"):
                raise TraceError(
                    f"{field}= in --columns leaves the {field} tokens out, without which there is no trace"
                )
            given.off |= {field}
            continue
        head, colon, unit = column.rpartition(":")
        if column not in found and colon:
            if unit not in UNITS:
                raise TraceError(f"unknown unit {unit!r} in --columns; use one of {', '.join(UNITS)}")
            if field not in _TIMES:
                raise TraceError(f"{field} in --columns is not a time and takes no unit; write {field}={head}")
            column, given.units[field] = head, unit
        names = (column,) if column in found or field not in ("prompt", "output") else tuple(column.split("+"))
        for name in names:
            if name not in found:
                raise TraceError(f"there is no column {name!r}; columns found: {', '.join(found)}", path)
        given.names[field] = names
    return given


def shown(names: Mapping[str, tuple[str, ...]], field: str) -> str:
    """The columns of a field as they are told."""
    return (" or " if field in TEXTS else " + ").join(names[field])
