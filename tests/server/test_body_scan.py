"""The scan of a body against json.loads, and each of its limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.server.http import body_scan
from fastserve.server.http.body_scan import BodyLimits, Excess, Scan, fragments

NONE = BodyLimits(10**9, 10**9, 10**9, 10**9, 10**9)
LETTERS = st.text(alphabet='"\\/{}[],:u0n é€\U0001f600\x01\t\n', max_size=12)
VALUES = st.recursive(
    LETTERS | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(LETTERS, inner, max_size=5),
    max_leaves=20,
)


def feed(scan: Scan, body: bytes, piece: int) -> None:
    for start in range(0, len(body), piece):
        scan.feed(body[start : start + piece])


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings(item)


def runs(value: Any) -> Iterator[int]:
    """Lower bounds of the commas of one list without others inside."""
    if isinstance(value, list):
        if len(value) > 1 and not any(isinstance(item, (list, dict)) for item in value):
            yield len(value) - 1
        for item in value:
            yield from runs(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from runs(item)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@settings(max_examples=150, deadline=None)
@given(VALUES, st.sampled_from([1, 2, 3, 5, 8, 1 << 16]), st.booleans())
def test_counts_are_those_of_the_parsed_body(value: Any, piece: int, escaped: bool) -> None:
    """However the bytes are cut: strings, depth and what lists hold exactly; characters never more than there are."""
    body = json.dumps(value, ensure_ascii=escaped).encode()
    found = list(strings(value))
    scan = Scan(NONE)
    feed(scan, body, piece)
    assert scan.quotes == 2 * len(found) and not scan.splitter.inside and scan.depth == 0
    total = sum(map(len, found))
    assert scan.text <= total
    if "\\u" not in body.decode():
        assert scan.text == total
    for limits, exceeded in (
        (NONE._replace(items=len(found) + body.count(b"{") + body.count(b"[")), False),
        (NONE._replace(text=total), False),
        (NONE._replace(string=max(map(len, found), default=0)), False),
        (NONE._replace(run=max(runs(value), default=10) - 1), max(runs(value), default=0) > 0),
    ):
        scan = Scan(limits)
        if exceeded:
            with pytest.raises(Excess):
                scan.feed(body)
        else:
            scan.feed(body)


@settings(max_examples=150, deadline=None)
@given(VALUES, st.booleans())
def test_texts_are_those_of_the_parsed_body(value: Any, escaped: bool) -> None:
    body = json.dumps(value, ensure_ascii=escaped).encode()
    found = list(strings(value))
    assert [fragment.text for fragment in fragments(body)] == found
    assert all(fragment.begins for fragment in fragments(body))


def test_texts_over_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_scan, "PIECE", 7)
    text = 'a "quoted" \\ line\nafter line, é as it is'
    found = list(fragments(json.dumps(["x", text, "y"]).encode()))
    joined: list[str] = []
    for fragment in found:
        joined += [""] if fragment.begins else []
        joined[-1] += fragment.text
    assert joined == ["x", text, "y"] and len(found) > 5
    monkeypatch.undo()
    assert [f.text for f in fragments(b'["\\ud83d", "\\x", "\xff"]')] == ["?", "", ""]  # nothing raises


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[" + b"{}," * 101, "items"),
        (b"[" + b'""' * 101, "items"),
        (b"[]" * 101, "items"),
        (b'"' * 204, "items"),
        (b"[" + b"1," * 60, "run"),
        (b"[" + b"[1,1,1,1],[]," * 40, "numbers"),
        (b'["' + b"x" * 51, "string"),
        (b"[" + b'"xxxxxxxxxx",' * 21, "text"),
        (b"[" * 600, "depth"),
        (b'{"a":' * 600, "depth"),
        (b"9" * 70_000, "digits"),
        (b"[1,-" + b"1234567890" * 103 + b"]", "digits"),
        (b"nonsense" * 9000, "literal"),
    ],
)
@pytest.mark.parametrize("piece", [1 << 16, 11])
def test_limits(body: bytes, kind: str, piece: int) -> None:
    limits = BodyLimits(items=100, numbers=50, run=50, string=50, text=200)
    if kind in ("depth", "literal", "digits"):
        limits = NONE
    with pytest.raises(Excess) as error:
        feed(Scan(limits), body, piece)
    assert error.value.kind == kind


def test_what_is_refused_at_the_start_is_not_looked_at_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    split = body_scan.Splitter.split

    def counted(self: body_scan.Splitter, piece: bytes) -> body_scan.Parts:
        nonlocal looked
        looked += 1
        return split(self, piece)

    monkeypatch.setattr(body_scan.Splitter, "split", counted)
    with pytest.raises(Excess):
        Scan(NONE._replace(items=1000)).feed(b"[" + b"{}," * (2 << 20))
    assert looked == 1


def test_numbers_of_as_many_digits_as_there_may_be() -> None:
    number = b"9" * body_scan.MAX_DIGITS
    for piece in (1 << 16, 11, 1):
        feed(Scan(NONE), b"[%s,-%s,%s.%s]" % (number, number, number, number), piece)
