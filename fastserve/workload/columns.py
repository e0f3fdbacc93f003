"""Column mapping: by the names that published traces use, or by --columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastserve.workload.errors import TraceError
from fastserve.workload.parse import UNITS

_SYNONYMS: dict[str, str] = {
    "arrival": "arrival_s arrival_ms arrival_us arrival_ns arrived_at arrival_time arrival_time_s arrival_time_ms "
    "arrival timestamp_ms timestamp_s timestamp request_time req_time start_time time ts t",
    "prompt": "prompt_tokens num_prefill_tokens input_length context_tokens request_tokens input_tokens prompt_length "
    "prompt_len input_len num_prompt_tokens isl in",
    "output": "output_tokens num_decode_tokens output_length generated_tokens response_tokens completion_tokens "
    "output_len num_output_tokens osl out",
    "client": "client client_id user user_id tenant tenant_id",
    "program": "program program_id session session_id conversation_id",
    "priority": "priority",
    "ttft_slo": "slo_ttft_ms ttft_slo_ms",
    "tpot_slo": "slo_tpot_ms tpot_slo_ms",
    "e2e_slo": "slo_e2e_ms e2e_slo_ms",
    "max_tokens": "max_tokens max_completion_tokens",
    "guess": "guess num_predicted_decode_tokens predicted_output_tokens",
    "hash_ids": "hash_ids",
    "block_size": "block_size",
}
"""Field -> known column names, the likeliest first; compared without case, spaces and underscores."""

_TIMES = frozenset({"arrival", "ttft_slo", "tpot_slo", "e2e_slo"})


def plain(name: str) -> str:
    """A column name as it is compared: lower case, letters and digits only."""
    return "".join(c for c in name.lower() if c.isalnum())


@dataclass(frozen=True, slots=True)
class Columns:
    """Field -> column name of one file, and the units of those that are times."""

    names: dict[str, str]
    units: dict[str, str]


def resolve(found: Sequence[str], spec: str | None, path: str) -> Columns:
    """Columns named in `spec` (arrival=ts:ms,prompt=a,output=b) first, then the known names.

    The result always has prompt and output; a file without an arrival column is a set of lengths. TraceError lists
    the columns found.
    """
    names, units = _parse(spec, found, path)
    known = {plain(name): name for name in reversed(found)}
    for field, synonyms in _SYNONYMS.items():
        if field not in names:
            hit = next((known[plain(s)] for s in synonyms.split() if plain(s) in known), None)
            if hit is not None:
                names[field] = hit
    lost = [field for field in ("prompt", "output") if field not in names]
    if lost:
        raise TraceError(
            f"cannot tell which column holds the {' and the '.join(lost)} tokens; columns found: {', '.join(found)}. "
            "Name them: --columns arrival=NAME:s|ms|us|ns,prompt=NAME,output=NAME",
            path,
        )
    for field in _TIMES & names.keys():
        units.setdefault(field, _unit(field, names, known))
    return Columns(names, units)


def _parse(spec: str | None, found: Sequence[str], path: str) -> tuple[dict[str, str], dict[str, str]]:
    names: dict[str, str] = {}
    units: dict[str, str] = {}
    for part in (spec or "").split(","):
        if not part.strip():
            continue
        field, equals, column = (text.strip() for text in part.partition("="))
        if field not in _SYNONYMS or not equals:
            raise TraceError(
                f"cannot read {part.strip()!r} in --columns; write FIELD=NAME or FIELD=NAME:UNIT, "
                f"where FIELD is one of {', '.join(_SYNONYMS)} and UNIT one of {', '.join(UNITS)}"
            )
        head, colon, unit = column.rpartition(":")
        if column not in found and colon:
            if unit not in UNITS:
                raise TraceError(f"unknown unit {unit!r} in --columns; use one of {', '.join(UNITS)}")
            if field not in _TIMES:
                raise TraceError(f"{field} in --columns is not a time and takes no unit; write {field}={head}")
            column, units[field] = head, unit
        if column not in found:
            raise TraceError(f"there is no column {column!r}; columns found: {', '.join(found)}", path)
        names[field] = column
    return names, units


def _unit(field: str, names: dict[str, str], known: dict[str, str]) -> str:
    """ms for Mooncake's `timestamp` (it comes with block ids; Bailian's, which has chat ids too, is in seconds)."""
    name = plain(names[field])
    if field != "arrival" or name.endswith("ms"):
        return "ms"
    if name.endswith(("us", "ns")):
        return name[-2:]
    return "ms" if name == "timestamp" and "hashids" in known and "chatid" not in known else "s"
