"""Opens a file by its content, or a folder of files, as tables of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from fastserve.workload.errors import TraceError
from fastserve.workload.reader.columnar import ARROW, PARQUET, Columnar
from fastserve.workload.reader.csv_rows import CsvRows
from fastserve.workload.reader.json_rows import DECODER, JsonObjects, JsonRows
from fastserve.workload.reader.rounds import Rounds, holds_rounds
from fastserve.workload.reader.source import Source
from fastserve.workload.reader.table import Tables
from fastserve.workload.reader.weka import Conversations, holds_conversations


def opened_of(source: Source) -> Tables:
    """By content: `{` opens JSON lines, `[` a JSON array, else it is columnar or CSV (comma, tab or semicolon)."""
    for magic in (PARQUET, ARROW):
        if source.head.startswith(magic):
            return Columnar(source.path, magic)
    if source.encoding == "utf-8-sig" and b"\x00" in source.head:
        raise source.no_text(1)
    head = source.head.decode(source.encoding, errors="ignore")
    first = head[:4096].lstrip()[:1]
    if not first:
        raise TraceError("the file is empty", source.where)
    if first not in "{[":
        return CsvRows(source)
    if first == "{" and _several_lines(head):
        objects = JsonObjects(source)
        if not holds_conversations(objects.names):
            raise TraceError(
                "this is one JSON object over several lines; a trace has one object a line, or an array of them "
                "(jq -c . FILE > LINES writes one a line)",
                source.where,
            )
        return objects
    return JsonRows(source, array=first == "[")


def grouped(opened: Tables, files: Callable[[], Iterator[Tables]] | None = None) -> Tables:
    """The requests inside, where these are conversations or rounds of sessions. files: all of them, where this is the
    first of a folder.
    """
    if isinstance(opened, Conversations | Rounds):
        return opened
    every = files if files is not None else lambda: iter([opened])
    if holds_conversations(opened.names):
        return Conversations(every)
    if holds_rounds(opened.names):
        return Rounds(every, recorded="newly_append_tokens" in opened.names)
    return opened


def folder(path: Path) -> Tables:
    """The conversations or rounds of all files in it, by name; hidden ones and those in folders are not looked at."""
    paths = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    paths = [file for file in paths if file.suffix.lower() not in (".md", ".txt", ".yaml", ".yml")]
    if not paths:
        raise TraceError("there is no trace in this folder", str(path))

    def files() -> Iterator[Tables]:
        for file in paths:
            with Source(file) as source:
                opened = opened_of(source)
                if not holds_conversations(opened.names) and not holds_rounds(opened.names):
                    raise TraceError(
                        "this file holds neither conversations (WEKA's kind) nor rounds (TraceLab's), and only a "
                        "folder of these is read as one trace; name one file, or take this one out of the folder",
                        str(file),
                    )
                yield opened

    return grouped(next(files()), files)


def _several_lines(head: str) -> bool:
    """Whether one JSON object goes on over several lines; it would look like many broken ones."""
    text = head.lstrip()
    line = text.partition("\n")[0].rstrip()
    try:
        DECODER.decode(line)
        return False
    except (ValueError, RecursionError):
        pass
    try:
        return "\n" in text[: DECODER.raw_decode(text)[1]]
    except (ValueError, RecursionError):
        return line.endswith(("{", "[", ",")) and "\n" in text
