"""Guesses: the setting `speculate` of a replay, as K:ACCEPTANCE, K:ACCEPTANCE:SPREAD, K:FILE; `fixed:` before them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastserve.speculation.acceptance import Acceptance, read_acceptance
from fastserve.speculation.spec import MOST, OFF

FIXED: Final = "fixed:"
FORMS: Final = (
    f"{OFF}, K:ACCEPTANCE or K:FILE, as 4:0.7 (4:0.7:0.2 where jobs differ by so much), or fixed:4:0.7 for always as "
    "many"
)


@dataclass(frozen=True, slots=True)
class Guesses:
    """most: guesses of a job in one iteration. fixed: always so many; else fewer where that is quicker."""

    most: int
    acceptance: Acceptance
    fixed: bool = False

    @property
    def about(self) -> dict[str, Any]:
        """For a result, which must not depend on a file."""
        return {"k": self.most, "fixed": self.fixed, **self.acceptance.to_json()}

    def told(self) -> str:
        """In words."""
        share = self.acceptance
        jobs = f" (standard deviation between jobs {share.spread:g})" if share.spread else ""
        often = "" if share.found == 1 else f", of {share.found:.0%} of the iterations of a job"
        how = "always" if self.fixed else "at most, fewer where that is quicker"
        return f"speculation: {self.most} guesses {how}; one is right with probability {share.p:.3g}{jobs}{often}"


def parse(text: str | None) -> Guesses | None:
    """None where nothing is guessed. ValueError; OSError for a file that cannot be read."""
    if text is None or text == OFF:
        return None
    fixed = text.startswith(FIXED)
    number, _, share = text.removeprefix(FIXED).partition(":")
    if not (share and number.isascii() and number.isdigit() and 1 <= int(number) <= MOST):
        raise ValueError(f"speculate={text!r}: give {FORMS}; K is 1 to {MOST} guesses of a job in one iteration")
    return Guesses(int(number), _acceptance(text, share), fixed)


def _acceptance(text: str, share: str) -> Acceptance:
    p, _, spread = share.partition(":")
    try:
        numbers = float(p), float(spread or 0)
    except ValueError:
        if not Path(share).is_file():
            raise FileNotFoundError(f"speculate={text!r}: {share!r} is neither a probability nor a file") from None
        return read_acceptance(share)
    return Acceptance(numbers[0], spread=numbers[1])
