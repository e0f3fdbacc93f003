"""How often guesses were right in a run, from its flight log: what `--speculate K:FILE` of a simulation draws from."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import NamedTuple

from fastserve.flightlog.lines import LogError
from fastserve.flightlog.replay import opened
from fastserve.speculation.acceptance import Acceptance, between


class Guessed(NamedTuple):
    """Of a run. tokens_per_decode: that an iteration gave to a job that decoded, mean."""

    acceptance: Acceptance
    draft_tokens: int
    accepted_tokens: int
    tokens_per_decode: float


def guessed_in(path: str | PathLike[str]) -> Guessed | None:
    """None where nothing was guessed. Raises LogError, OSError.

    A job that ends among its guesses was right as far as it was looked at. The share of iterations in which a job has
    guesses is taken among those whose batch was no larger than the largest one that verified any: beyond it nothing was
    asked for.
    """
    by_job: dict[int, list[tuple[int, int]]] = {}
    batches: list[tuple[int, int]] = []  # (jobs that decoded, of these those that verified guesses)
    drafted = accepted = decodes = extras = 0
    batch = 0
    for line in opened(path)[1]:
        data = line.data
        try:
            if data["event"] in ("plan", "amend"):
                batch = 0 if data["plan"] is None else data["plan"]["batch"]
            elif data["event"] == "commit" and batch:
                drafts = data.get("drafts", ())
                extra = dict(data.get("extra", ()))
                rounds = data["iterations"]
                decodes += batch * rounds
                extras += sum(extra.values())
                batches += [(batch, len(drafts))] * (rounds if not drafts else 1)
                over = set(data["ended"])
                for job, tried, right in drafts:
                    cut = job in over and extra.get(job, 0) < right
                    by_job.setdefault(job, []).append((right if cut else tried, right))
                    drafted += tried
                    accepted += right
        except (KeyError, TypeError, ValueError) as error:
            raise LogError(f"{path}, line {line.number}: {type(error).__name__} {error}; is it damaged?") from None
    if not by_job:
        return None
    largest = max([size for size, verified in batches if verified])
    asked = sum([size for size, _ in batches if size <= largest])
    found = sum([verified for _, verified in batches]) / asked
    p, spread = between(by_job.values())
    provenance = (
        f"{Path(path).name}: {drafted:,} guesses, {accepted:,} right, of {len(by_job):,} jobs; guesses in {found:.1%} "
        f"of a job's iterations in batches of up to {largest}"
    )
    acceptance = Acceptance(p, found, provenance, spread)
    return Guessed(acceptance, drafted, accepted, (decodes + extras) / decodes)
