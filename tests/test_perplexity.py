"""scripts/perplexity.py: its sums against their formulas, and one run on the engine."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_perplexity_divergence_and_distance_are_their_formulas() -> None:
    from perplexity import compared

    logits = np.random.default_rng(0).normal(size=(5, 9))
    other = logits + 0.1 * np.random.default_rng(1).normal(size=(5, 9))
    exact, found = (it - np.log(np.exp(it).sum(1, keepdims=True)) for it in (logits, other))
    tokens = found[np.arange(5), [0, 1, 2, 3, 4]]
    row = compared(exact.astype(np.float32), found.astype(np.float32), tokens.astype(np.float32))
    assert row.perplexity == pytest.approx(np.exp(-tokens.mean()), rel=1e-5)
    assert row.kl == pytest.approx((np.exp(exact) * (exact - found)).sum(1).mean(), rel=1e-3)
    off = other - logits
    want = np.sqrt(((off - off.mean(1, keepdims=True)) ** 2).mean(1)) / logits.std(1)
    assert row.distance == pytest.approx(np.exp(np.log(want).mean()), rel=1e-3)
    assert row.argmax == (exact.argmax(1) == found.argmax(1)).mean()
    same = compared(exact, exact, tokens)
    assert same.kl == 0 and same.argmax == 1 and same.distance < 1e-8


def test_it_measures_what_the_engine_serves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import perplexity

    command = "perplexity --model embedded --tokens 10 --piece 5 --try dtype=float32 --try dtype=bfloat16"
    monkeypatch.setattr(sys, "argv", command.split())
    assert perplexity.main() == 0
    first, second = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert first[0] == "dtype=float32" and first[4] == "100.0%" and abs(float(first[2])) == 0
    assert second[0] == "dtype=bfloat16" and 0 < abs(float(second[2])) < 0.01
    assert float(second[1]) == pytest.approx(float(first[1]), rel=0.02)


def test_an_option_without_a_value_is_one_line() -> None:
    from perplexity import options_of

    assert options_of("dtype=float32,threads=2") == {"dtype": "float32", "threads": 2}
    with pytest.raises(SystemExit, match="dtype has no value"):
        options_of("threads=2,dtype")
