"""ATLAS, the longest critical path served: Autellix (arXiv 2502.13965) for programs whose calls run side by side."""

from __future__ import annotations

from fastserve.policies.plas import Call, Plas, Served


class Atlas(Plas):
    """As plas, but calls side by side do not add up: a program's service is its longest observed chain of calls.

    One number a program: the largest of its finished calls' own service and what the number was when they came.
    """

    def finished(self, program: Served, call: Call, served: int) -> None:
        program.served = max(program.served, call.before + served)
