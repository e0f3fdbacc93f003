"""Guesses from the text itself (prompt lookup): what followed the last few tokens where these stood before.

Source: A. Saxena, "Prompt Lookup Decoding" (2023). The index is that of LZ77's compressors: a table of pairs of tokens
and a chain from each place of a pair to the one before. A token costs one entry, a guess a walk of bounded length.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Final

from fastserve.sched.job import Job
from fastserve.speculation.proposer import Ask

MOST: Final = 1 << 16
"""Tokens of a text that are remembered, and half of them when there are more."""

PLACES: Final = 8
"""Earlier places of the last pair that are looked at, the latest first."""

LONGEST: Final = 16
"""Equal tokens after which a place is as good as any."""

_SHIFT: Final = 32  # of the first token of a pair in its key
_NONE: Final = (0, 0)  # there is no pair before the places 0 and 1


class Text:
    """The tokens of one job, and where each pair of them stands. Longest match first, the latest among equals."""

    __slots__ = ("_before", "_last", "_most", "_tokens", "known")

    def __init__(self, most: int = MOST) -> None:
        self.known = 0  # tokens that have been added, forgotten ones included
        self._most = most
        self._tokens = array("q")
        self._last: dict[int, int] = {}  # pair -> the latest place behind it, that of the newest pair left out
        self._before = array("q", _NONE)  # by place: the earlier place behind the same pair, or 0

    def add(self, tokens: Iterable[int]) -> None:
        """The next tokens of the text."""
        text, last, before = self._tokens, self._last, self._before
        start = len(text)
        text.extend(tokens)
        self.known += len(text) - start
        for place in range(max(2, start), len(text)):  # the pair before `place` has a token behind it
            key = text[place - 2] << _SHIFT | text[place - 1]
            before.append(last.get(key, 0))
            last[key] = place
        if len(text) > self._most:
            kept = text[-(self._most // 2) :]
            self.known -= len(kept)
            self._tokens, self._last, self._before = array("q"), {}, array("q", _NONE)
            self.add(kept)

    def guess(self, most: int) -> list[int]:
        """What comes next, at most so many tokens; none where the last pair is new."""
        text = self._tokens
        end = len(text)
        if end < 3:
            return []
        best = length = 0
        place = self._last.get(text[end - 2] << _SHIFT | text[end - 1], 0)
        for _ in range(PLACES):
            if not place:
                break
            same = 2
            while same < LONGEST and same < place and text[place - 1 - same] == text[end - 1 - same]:
                same += 1
            if same > length:
                best, length = place, same
                if same == LONGEST:
                    break
            place = self._before[place]
        if not best:
            return []
        found = text[best : best + most].tolist()
        while len(found) < most:  # the text repeats itself up to its end: so do the guesses
            found += found[-(end - best) :][: most - len(found)]
        return found


class Ngrams:
    """A Proposer; the text of a job is indexed when it is first asked for."""

    def __init__(self) -> None:
        self.texts: dict[Job, Text] = {}

    def propose(self, asks: Sequence[Ask]) -> list[Sequence[int]]:
        found: list[Sequence[int]] = []
        texts = self.texts
        for job, prompt, tokens, most, _ in asks:
            text = texts.get(job)
            if text is None:
                text = texts[job] = Text()
                text.add(prompt)
            text.add(tokens[text.known - len(prompt) :])
            found.append(text.guess(most))
        return found

    def verified(self, job: Job, accepted: int) -> None:
        pass

    def forget(self, job: Job) -> None:
        self.texts.pop(job, None)

    def reset(self) -> None:
        pass

    def latency(self, max_batch: int) -> None:
        return None

    def held(self) -> int:
        return len(self.texts)

    def close(self) -> None:
        self.texts.clear()
