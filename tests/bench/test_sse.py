"""Events are the same however their bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.bench.sse import Event, EventParser


def parse(*chunks: bytes) -> list[Event]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [("", "a")]),
        (b"data:a\r\n\r\n", [("", "a")]),
        (b"data: a\r\rdata: b\r\r", [("", "a"), ("", "b")]),
        (b"data:  a\n\n", [("", " a")]),
        (b"data: a\ndata:\ndata: b\n\n", [("", "a\n\nb")]),
        (b"data\n\n", [("", "")]),
        (b"event: ttft\ndata: 0.5\n\ndata: x\n\n", [("ttft", "0.5"), ("", "x")]),
        (b"event: done\n\ndata: x\n\n", [("", "x")]),
        (b": wait\n\nid: 3\nretry: 10\nother: y\ndata: a:b\n\n", [("", "a:b")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("", "a")]),
        (b"\xef\xbbdata: a\n\n", []),
        (b"data: a\n\ndata: never ended", [("", "a")]),
        (b"data: \xff\n\n", [("", "�")]),
        (b"\n\n\n", []),
    ],
)
def test_streams(stream: bytes, events: list[tuple[str, str]]) -> None:
    assert parse(stream) == events
    assert parse(*[stream[i : i + 1] for i in range(len(stream))]) == events


LINE = st.sampled_from(["data: é", "data:", 'data: {"a": 1}', ": ping", "event: x", "nonsense", "data: a: b", ""])
END = st.sampled_from(["\n", "\r\n", "\r"])


@given(st.lists(st.tuples(LINE, END)), st.data())
def test_the_cuts_do_not_matter(lines: list[tuple[str, str]], data: st.DataObject) -> None:
    stream = "".join([line + end for line, end in lines]).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert parse(*chunks) == parse(stream)
