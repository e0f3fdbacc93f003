"""A predictor of a user's own, by module:Class or ./file.py:Class."""

from __future__ import annotations

import inspect
from typing import Any

from fastserve.importing import module_of
from fastserve.sched.job import Job


class Own:
    """Calls the user's predict(job, truth), and says which predictor it was where that fails.

    The class is made without arguments, or with `seed` where its constructor takes one.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name = name
        where, _, class_name = name.rpartition(":")
        kind = getattr(module_of(f"predictor {name!r}", where), class_name, None)
        if not inspect.isclass(kind) or not callable(getattr(kind, "predict", None)):
            what = "does not exist" if kind is None else "has no method predict(job, truth) -> tokens"
            raise ValueError(f"predictor {name!r}: {class_name} {what}")
        try:
            takes_seed = "seed" in inspect.signature(kind).parameters
            arguments = {"seed": seed} if takes_seed else {}
            self.made: Any = kind(**arguments)
        except Exception as error:
            raise ValueError(f"predictor {name!r} cannot be made: {type(error).__name__}: {error}") from error

    def predict(self, job: Job, truth: int) -> int:
        try:
            guess = self.made.predict(job, truth)
        except Exception as error:
            raise ValueError(
                f"predictor {self.name!r} failed at job {job.id}: {type(error).__name__}: {error}"
            ) from error
        if isinstance(guess, bool) or not isinstance(guess, int) or guess < 1:
            raise ValueError(
                f"predictor {self.name!r} guesses {guess!r} for job {job.id}: give a whole number from 1 on"
            )
        return guess
