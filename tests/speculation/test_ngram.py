"""Guesses from the text itself: the longest match, the latest among equals; the index grows with the text."""

import random

from hypothesis import given
from hypothesis import strategies as st

from fastserve.sched.job import Job
from fastserve.speculation.ngram import LONGEST, PLACES, Ngrams, Text
from fastserve.speculation.proposer import Ask

A_TEXT = st.lists(st.integers(0, 3), max_size=60)


def guess_slowly(tokens: list[int], most: int) -> list[int]:
    """The same in its simplest form: every place is looked at, and nothing is remembered."""
    end = len(tokens)
    places = [at for at in range(2, end) if tokens[at - 2 : at] == tokens[end - 2 :]][::-1][:PLACES]
    best = length = 0
    for place in places:
        same = next((n for n in range(min(place, LONGEST)) if tokens[place - 1 - n] != tokens[end - 1 - n]), None)
        same = min(place, LONGEST) if same is None else same
        if same > length:
            best, length = place, same
    if not best:
        return []
    found = list(tokens)
    for _ in range(most):
        found.append(found[len(found) - (end - best)])
    return found[end:]


@given(tokens=A_TEXT, cuts=st.lists(st.integers(0, 60), max_size=5), most=st.integers(1, 9))
def test_guesses_are_those_of_a_search(tokens: list[int], cuts: list[int], most: int) -> None:
    """However the text grows."""
    text = Text()
    for first, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(tokens)], strict=True):
        text.add(tokens[first:end])
        known = tokens[: min(max(end, 0), len(tokens))]
        assert text.known == len(known)
        assert text.guess(most) == guess_slowly(known, most)


def test_the_longest_match_is_taken_and_of_equal_ones_the_latest() -> None:
    text = Text()
    text.add([1, 2, 3, 7, 9, 2, 3, 8, 5, 2, 3, 6, 1, 2, 3])
    assert text.guess(2) == [7, 9]  # 1 2 3, though 2 3 came again behind it
    text = Text()
    text.add([2, 3, 7, 9, 2, 3, 8, 5, 2, 3])
    assert text.guess(1) == [8]


def test_a_text_that_goes_round_is_guessed_further_than_it_goes() -> None:
    text = Text()
    text.add([5, 1, 2, 3, 1, 2, 3])
    assert text.guess(8) == [1, 2, 3, 1, 2, 3, 1, 2]


def test_what_is_new_is_not_guessed() -> None:
    text = Text()
    assert text.guess(4) == []
    text.add([1])
    text.add([1])
    assert text.guess(4) == []
    text.add([2])
    assert text.guess(4) == []


def test_memory_is_bounded() -> None:
    """Old tokens go, the newest stay, and the count goes on."""
    dice = random.Random(1)
    phrase = [dice.randrange(1000) for _ in range(40)]
    text = Text(most=100)
    for n in range(50):
        text.add([dice.randrange(1000, 10**6) for _ in range(13)])
        assert text.known == 13 * (n + 1)
        assert len(text._tokens) <= 100
        assert len(text._last) <= 100 >= len(text._before)
    text.add(phrase)
    text.add(phrase[:20])
    assert text.guess(6) == phrase[20:26]


def test_jobs_are_told_apart_and_forgotten() -> None:
    ngrams = Ngrams()
    a, b = Job(0, 0, 4, 10), Job(1, 0, 4, 10)
    prompts = {a: [1, 2, 3, 4], b: [1, 2, 5, 6]}
    tokens: dict[Job, list[int]] = {a: [1, 2], b: [1]}
    asks = [Ask(job, prompts[job], tokens[job], 2) for job in (a, b)]
    assert ngrams.propose(asks) == [[3, 4], []]
    tokens[a] += [3]
    tokens[b] += [2]
    assert ngrams.propose(asks) == [[4, 1], [5, 6]]
    ngrams.forget(a)
    ngrams.forget(a)
    assert ngrams.propose(asks) == [[4, 1], [5, 6]]
    ngrams.close()
    assert not ngrams.texts
