"""What a seed takes: draws of a synthetic workload, blocks, windows or pairs of a recorded trace."""

from __future__ import annotations

import numpy as np
import pytest

from fastserve.cli.seeding import HOW
from fastserve.workload import Synthesis, Trace, TraceError, synthesise
from fastserve.workload.seeds import RESAMPLES, SHORTEST, Recorded, source_of


def made(n: int = 100) -> Trace:
    """Row i has i + 1 prompt tokens and arrives (i + 1) s after the one before: a row is known by either."""
    gaps = np.arange(1, n + 1, dtype=np.int64) * 10**9
    gaps[0] = 0
    return Trace(
        "made",
        "by hand",
        np.cumsum(gaps),
        np.arange(1, n + 1),
        np.ones(n, np.int64),
        program=[str(i) for i in range(n)],
    )


# -- --synth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "recipe"),
    [
        ("n=9,rate=2,arrivals=gamma:cv=4,lengths=profile:alpaca",
         Synthesis(n=9, rate=2.0, arrivals="gamma:cv=4", lengths="profile:alpaca")),
        ("rate=2", Synthesis(rate=2.0)),
        ("lengths=lognormal:5,1,1,1024,rate=0.5", Synthesis(rate=0.5, lengths="lognormal:5,1,1,1024")),
        ("rate=1, arrivals=onoff:on=10,off=30 , n=7", Synthesis(n=7, rate=1.0, arrivals="onoff:on=10,off=30")),
        ("prompt=zipf:theta=1,hi=9,output=fixed:n=3", Synthesis(prompt="zipf:theta=1,hi=9", output="fixed:n=3")),
        ("num_requests=5,request_rate=3", Synthesis(n=5, rate=3.0)),
        ("", Synthesis()),
    ],
)  # fmt: skip
def test_a_recipe_in_one_line(text: str, recipe: Synthesis) -> None:
    assert Synthesis.parse(text) == recipe
    assert Synthesis.parse(str(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n=10,rat=2", "no setting 'rat'; it has n, .*, priorities, clients, classes; did you mean rate?"),
        ("n=10,seed=2", "no setting 'seed'"),
        ("n=10,cv=2", "no setting 'cv'"),
        ("n=1.5", "n=1.5 is not a whole number"),
        ("n=0", "cannot synthesise 0 requests"),
        ("n=-3", "cannot synthesise -3 requests"),
        ("rate=fast", "rate=fast is not a number"),
        ("rate=0", "a rate must be a positive number"),
        ("rate=nan", "a rate must be a positive number"),
        ("n=1,n=2", "n is given twice"),
        ("n=1,num_requests=2", "n is given twice"),
        ("5", "'5' is out of place"),
        ("n=5,000", "'000' is out of place"),
        ("arrivals=gama:cv=4", "unknown recipe 'gama:cv=4'"),
        ("arrivals=gamma", "lacks cv"),
        ("arrivals=gamma:cv=4,on=3", "cannot place 'on=3'"),
        ("lengths=profile:nobody", "nobody"),
        ("lengths=gauss:3", r"unknown recipe 'gauss:3'.*profile:NAME"),
    ],
)
def test_what_is_wrong_with_one(text: str, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        Synthesis.parse(text)


def test_each_seed_is_a_draw_and_the_same_as_synthesise_makes() -> None:
    source = source_of(None, "n=50,rate=2,arrivals=gamma:cv=4,lengths=lognormal:4,1,1,500")
    recipe = {"arrivals": "gamma:cv=4", "lengths": "lognormal:4,1,1,500"}
    for seed in range(3):
        assert source.trace(seed).digest() == synthesise(50, rate=2, seed=seed, **recipe).digest()
    one, other = source.trace(0), source.trace(1)
    assert (one.arrival != other.arrival).any() and (one.prompt != other.prompt).any()
    assert sorted(one.prompt.tolist()) != sorted(other.prompt.tolist()), "requests anew, not permuted"
    assert source.samples(8) is None and source.how == "drawn"


def test_a_rate_may_come_later() -> None:
    source = source_of(None, "n=50", num_requests=20)
    assert source.jobs == 20 and source.rate == 0
    with pytest.raises(TraceError, match="no rate: give rate=R"):
        source.trace(0)
    assert len(source.at_rate(3.0).trace(0)) == 20 and source.at_rate(3.0).rate == 3.0


@pytest.mark.parametrize("given", [(None, None), (made(), "rate=2")])
def test_one_of_the_two(given: tuple[Trace | None, str | None]) -> None:
    with pytest.raises(ValueError, match="give a trace or a synthetic workload"):
        source_of(*given)


# -- a recorded trace --------------------------------------------------------------------------------------------------


def test_blocks_are_successive_requests_with_their_gaps() -> None:
    source = source_of(made(1000))
    assert HOW == RESAMPLES, "the flag's choices"
    assert isinstance(source, Recorded) and source.how == RESAMPLES[0] == "blocks" and source.block == 100
    assert source.trace(0).digest() == made(1000).digest(), "seed 0 is the trace"
    found = source.trace(3)
    assert found.digest() == source.trace(3).digest() != source.trace(4).digest()
    assert len(found) == 1000 and found.arrival[0] == 0
    rows = found.prompt - 1
    assert found.program == [str(row) for row in rows], "columns go together"
    steps = (np.diff(rows) % 1000) == 1
    assert np.count_nonzero(~steps) <= 9, "ten blocks"
    gaps = np.diff(found.arrival) // 10**9
    mean = made(1000).span // 999 // 10**9
    assert (gaps == np.where(rows[1:] == 0, mean, rows[1:] + 1)).all(), "each with the gap before it"
    assert source.samples(8) == 1


def test_blocks_keep_bursts_that_pairs_keep_and_the_requests_with_them() -> None:
    """A burst of ten long requests stays one; re-pairing spreads the long ones over the trace."""
    prompt = np.ones(300, np.int64)
    prompt[100:110] = 9
    trace = Trace("t", "t", np.arange(300) * 10**9, prompt, np.ones(300, np.int64))

    def runs(how: str) -> int:
        found = source_of(trace, resample=how).trace(5).prompt == 9
        return int(np.count_nonzero(np.diff(found.astype(int)) == 1))

    assert runs("blocks") <= 3 < runs("pairs")


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_a_short_trace_has_resamples_but_no_interval(n: int) -> None:
    source = source_of(made(n))
    assert [len(source.trace(seed)) for seed in range(4)] == [n] * 4
    assert n >= SHORTEST or source.samples(8) == 0
    assert "an interval takes a trace of 64 requests" in source.words
    assert source_of(made(SHORTEST)).samples(8) == 1


def test_windows_divide_the_trace_among_the_seeds() -> None:
    source = source_of(made(100), resample="windows", seeds=5)
    firsts = [source.trace(seed).prompt[0] for seed in range(5)]
    assert firsts == [1, 21, 41, 61, 81] and source.jobs == 20 and source.samples(5) is None
    assert source.trace(1).arrival[0] == 0
    assert source_of(made(100), resample="windows").trace(0).digest() == made(100).digest(), "one seed has all"


def test_windows_of_so_many_requests_are_spread_and_may_overlap() -> None:
    source = source_of(made(100), resample="windows", num_requests=30, seeds=8)
    assert [source.trace(seed).prompt[0] for seed in range(8)] == [1, 11, 21, 31, 41, 51, 61, 71]
    assert source.samples(8) == 3 and "overlap, no more than 3 fit side by side" in source.words
    assert source_of(made(100), resample="windows", num_requests=10, seeds=8).samples(8) is None
    assert source_of(made(100), resample="windows", num_requests=20, seeds=8).samples(8) == 5
    assert source_of(made(100), resample="windows", num_requests=80, seeds=8).samples(8) == 0
    assert source_of(made(100), resample="windows", num_requests=500, seeds=8).samples(8) == 0
    with pytest.raises(TraceError, match="seed 8: there are 8 windows"):
        source.trace(8)


def test_re_pairing_is_called_so() -> None:
    source = source_of(made(100), resample="pairs")
    assert source.trace(2).digest() == made(100).repaired(2).digest()
    assert "re-pair" in source.words and source.samples(8) is None


def test_the_first_so_many_rows() -> None:
    assert source_of(made(100), num_requests=30).jobs == 30
    with pytest.raises(TraceError, match="cannot take the first 0"):
        source_of(made(100), num_requests=0)
    with pytest.raises(ValueError, match="resample='bootstrap' is none of blocks, windows, pairs"):
        source_of(made(100), resample="bootstrap")
