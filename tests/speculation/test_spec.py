"""The setting `speculate`."""

import pytest

from fastserve.speculation.spec import Speculate, parse


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("ngram:4", Speculate("ngram", 4)),
        ("draft:smollm2:2", Speculate("draft", 2, "smollm2")),
        ("draft:/models/small:32", Speculate("draft", 32, "/models/small")),
        ("draft:owner/name:small.gguf:1", Speculate("draft", 1, "owner/name:small.gguf")),
    ],
)
def test_what_is_said_is_meant(text: str, meant: Speculate) -> None:
    assert parse(text) == meant
    assert str(meant) == text


@pytest.mark.parametrize("text", [None, "off"])
def test_off(text: str | None) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("on", "speculate='on' is unknown: give off, ngram:K or draft:MODEL:K, as ngram:4"),
        ("medusa:4", "speculate='medusa:4' is unknown: give off"),
        ("draft:4", "speculate='draft:4' is unknown"),
        ("ngram:model:4", "speculate='ngram:model:4' is unknown"),
        ("ngram", "speculate='ngram': '' is no number of guesses from 1 to 32; give off"),
        ("ngram:0", "'0' is no number of guesses"),
        ("ngram:33", "'33' is no number of guesses"),
        ("ngram:four", "'four' is no number of guesses"),
        ("draft:embedded:", "'' is no number of guesses"),
    ],
)
def test_what_is_not_understood_is_told(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("(", r"\(")):
        parse(text)
