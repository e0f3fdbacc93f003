"""What is drawn in a step that verifies drafts, by any sampler.

Token i of a request is drawn from the logits behind token i - 1 with the number of its seed for i, as without drafts. A
draft is right if it is the token drawn; what stands behind the first wrong one does not count.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from fastserve.engine.sampler.results import Sampled, SamplingError
from fastserve.engine.sampler.state import SamplingState

log = logging.getLogger("fastserve")

Drawn = list[Sampled] | SamplingError
"""What a request gets in a step: at least one token, or why it has none."""


class Speaker(NamedTuple):
    """A request whose next tokens are drawn. row: of the logits behind its newest token; those behind its drafts are
    the next ones.
    """

    state: SamplingState
    row: int
    drafts: Sequence[int] = ()


class Sampling(Protocol):
    """A Sampler, of numpy's arrays or of tensors."""

    def sample(self, logits: Any, states: Sequence[SamplingState]) -> list[Sampled | SamplingError]: ...


def draw(sampler: Sampling, logits: Any, speakers: Sequence[Speaker]) -> list[Drawn]:
    """For each its tokens, at least one, which its state has accepted; or why it has none. logits: (rows, vocabulary),
    an array or a tensor; what the sampler does to them is done to them, or to copies.

    What fails behind a first token is left for the next step. Raises what the sampler raises for all first tokens, and
    no state has moved then.
    """
    if len(logits) == len(speakers):  # no drafts
        drawn = sampler.sample(logits, [speaker.state for speaker in speakers])
        return [one if isinstance(one, SamplingError) else [one] for one in drawn]
    found: list[Drawn] = []
    rows: list[int] = []
    states: list[SamplingState] = []  # by row
    for state, row, drafts in speakers:
        # All rows of one who draws as he would whatever came before are drawn in one go, where a row is cheap.
        whole = bool(drafts) and state.alike and (state.greedy or getattr(logits, "is_cuda", False))
        ahead = [state.ahead(by) for by in range(1 + len(drafts))] if whole else [state]
        rows += range(row, row + len(ahead))
        states += ahead
    drawn = sampler.sample(logits if len(rows) == len(logits) else logits[rows], states)
    going: list[tuple[int, list[Sampled]]] = []  # (speaker, tokens so far) whose drafts are right so far
    at = 0
    for i, (state, _, drafts) in enumerate(speakers):
        first = drawn[at]
        if isinstance(first, SamplingError):
            found.append(first)
        elif states[at] is state:
            said = [first]
            found.append(said)
            if drafts and first.token == drafts[0]:
                going.append((i, said))
        else:
            found.append(_accepted(drawn[at : at + 1 + len(drafts)], state, drafts))
        at += 1 if states[at] is state else 1 + len(drafts)
    _go_on(sampler, logits, speakers, going)
    return found


def _accepted(drawn: Sequence[Sampled | SamplingError], state: SamplingState, drafts: Sequence[int]) -> list[Sampled]:
    """The tokens up to the first one that was not guessed."""
    said: list[Sampled] = []
    for i, one in enumerate(drawn):
        if isinstance(one, SamplingError):
            break
        said.append(one)
        state.accept(one.token)
        if i < len(drafts) and one.token != drafts[i]:
            break
    return said


def _go_on(sampler: Sampling, logits: Any, speakers: Sequence[Speaker], going: list[tuple[int, list[Sampled]]]) -> None:
    """A token each in turns, while it is the one that was guessed."""
    while going:
        rows = [speakers[i].row + len(said) for i, said in going]
        try:
            drawn = sampler.sample(logits[rows], [speakers[i].state for i, _ in going])
        except Exception as error:  # a shortage of memory, too: the tokens before stand, and the next step goes on
            log.warning("sampling behind right drafts failed, and is left for the next step: %r", error)
            return
        more = []
        for (i, said), one in zip(going, drawn, strict=True):
            if isinstance(one, SamplingError):
                continue
            said.append(one)
            drafts = speakers[i].drafts
            if len(said) <= len(drafts) and one.token == drafts[len(said) - 1]:
                more.append((i, said))
        going = more
