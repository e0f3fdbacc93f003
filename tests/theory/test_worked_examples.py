"""Small schedules worked by hand, in units of one decode iteration (1 s here), batch of one.

From the FastServe papers: the rule that a prefill of 3 units with quanta 1, 2, 4 joins the third queue, and the
completion times of skip-join in v1's Fig. 6(c): J2 = 4, J3 = 5, J1 = 11, mean 6.67. The job sizes are OURS: the text at
hand does not give them, and these reproduce the three times. The other policies' times are our own worked examples.
Fig. 7 of later versions (means 4.23, 5, 3.3 and 3) is left out: its sizes are not at hand, and no three whole
numbers have a mean of 4.23.
"""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.policies import make
from fastserve.policies.mlfq import Mlfq
from tests.theory.single_server import SECOND, Queue

# prefill, outputs: J1 takes 3 + 3 units, J2 1 + 2, J3 1 + 1
JOBS = Queue([0, 0, 0], [3, 1, 1], [4, 3, 2])

ENDS: dict[str, tuple[list[int], dict[str, Any]]] = {
    "sj-mlfq": ([11, 4, 5], {"alpha": 0.0}),
    # J1 overruns Q1 by its prefill (0-3), J2 (3-4), J3 (4-5); Q2: J1 (5-7), J2 (7-9), J3 (9-10); Q3: J1 (10-11)
    "mlfq": ([11, 9, 10], {"alpha": 0.0}),
    "fcfs": ([6, 9, 11], {}),
    "srpt": ([11, 5, 2], {}),
    "sjf": ([11, 5, 2], {}),
    # J2 and J3 tie on their prompts: J2 came first
    "fixed-priority": ([11, 3, 5], {}),
    # J1 (0-3), J2 (3-4), J3 (4-6): it ties with J2 and runs on; J2 (6-8), J1 (8-11)
    "las": ([11, 8, 6], {}),
}


@pytest.mark.parametrize("name", ENDS)
def test_completion_times(name: str) -> None:
    ends, knobs = ENDS[name]
    assert list(JOBS.serve(make(name, knobs))["end"]) == ends


def test_mean_of_the_papers_skip_join_example() -> None:
    ends = JOBS.serve(make("sj-mlfq", {"alpha": 0.0}))["end"]
    assert ends.mean() == pytest.approx(6.67, abs=0.005)


@pytest.mark.parametrize(("prefill", "queue"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4)])
def test_a_prefill_joins_the_first_queue_that_covers_it(prefill: int, queue: int) -> None:
    """Quanta 1, 2, 4, ...: 3 units join Q3."""
    policy = make("sj-mlfq", {"alpha": 0.0, "levels": 8})
    assert isinstance(policy, Mlfq)
    world = Queue([0], [prefill], [2]).world(policy)
    world.drain(0)
    (job,) = policy.jobs
    assert policy.explain(job).startswith(f"Q{queue},")
    assert policy.quanta[:4] == [SECOND, 2 * SECOND, 4 * SECOND, 8 * SECOND]


def test_ageing_ends_a_wait() -> None:
    """Our own. A long prefill waits in Q3 behind a stream of short jobs until alpha takes it to Q1, and not without.

    One short job arrives each second and takes one: the long one would wait for as long as they come.
    """
    short = 20
    queue = Queue([0, *(i * SECOND for i in range(short))], [3, *[1] * short], [1] * (short + 1), longest=4)
    starved = queue.serve(make("sj-mlfq", {"alpha": 0.0}))
    assert starved["end"][0] == short + 3
    aged = queue.serve(make("sj-mlfq", {"alpha": 6.0}))
    # promoted at 6 to the back of Q1, before the short job that arrives then
    assert aged["end"][0] == 9
