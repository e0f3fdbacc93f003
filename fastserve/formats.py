"""Format versions of the files that are written, and the check of them on reading.

A file says what it is: {"format": "bench/1", ...}; a flight log's header says {"flight_log": 1, ...}, a route log's
{"kind": "routes", "version": 1, ...}. A version rises when readers of the old one would misread the new one; what is
only added raises none. Files that were written before there were versions have none, and are those of version 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

FORMAT: Final = "format"
"""Key of the version; in parquet, of the schema metadata."""

VERSIONS: Final[Mapping[str, int]] = {
    "bench": 1,  # the result document of fastserve bench
    "capacity": 1,  # run.json and summary.json of `python -m sim capacity`
    "comparison": 1,  # of fastserve ab
    "flight_log": 1,
    "profile": 1,  # of fastserve profile: what was measured, beside the hardware file
    "records": 1,  # a table, one row a request
    "reference": 1,  # of an experiment
    "route_log": 1,
    "rows": 1,  # the rows behind a reference
    "run": 1,  # run.json and summary.json of a simulation
    "sim_sweep": 1,  # run.json and summary.json of a sweep over settings
    "sweep": 1,  # run.json, cases and summary.json of an experiment
}
"""Kind of file -> current version."""

OLD: Final[Mapping[str, str]] = {
    "flight_log": "record the run again with --flight-log",
    "route_log": "record the run again with --route-log",
    "sim_sweep": "run the sweep again",
    "sweep": "run the experiment again",
}
"""Kind of file -> advice for a version that is too old; by default: write it again."""


class FormatError(ValueError):
    """A file of another kind, or of an unsupported version; the message says what to do."""


def stamp(kind: str) -> dict[str, str]:
    """The version entry of a document."""
    return {FORMAT: f"{kind}/{VERSIONS[kind]}"}


def metadata(kind: str) -> dict[bytes, bytes]:
    """The version entry of the schema of a parquet file."""
    return {FORMAT.encode(): f"{kind}/{VERSIONS[kind]}".encode()}


def check(kind: str, document: Mapping[str, Any], where: object) -> None:
    """Raises FormatError unless the document has this kind and a supported version. where: its name in messages."""
    found = document.get(FORMAT)
    if found is None:
        return
    name, _, version = str(found).partition("/")
    if name != kind or not version.isdecimal():
        raise FormatError(f"{where} is {found!r}, and what is read here is {kind}/{VERSIONS[kind]}")
    check_version(kind, int(version), where)


def check_version(kind: str, version: object, where: object) -> None:
    """Raises FormatError for an unsupported version, older or newer."""
    ours = VERSIONS[kind]
    what = kind.replace("_", " ")
    if not isinstance(version, int) or isinstance(version, bool):
        raise FormatError(f"{where} is no {what}: it does not say its version")
    if version > ours:
        raise FormatError(
            f"{where} is a {what} of version {version}, written by a newer fastserve; this one reads version {ours}: "
            f"upgrade it"
        )
    if version < ours:
        todo = OLD.get(kind, "write it again with this fastserve")
        raise FormatError(f"{where} is a {what} of version {version}, and version {ours} is read here: {todo}")
