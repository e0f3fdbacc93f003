"""What `python -m sim` and check_policy say of policies that break in unusual ways: advice, never a traceback."""

import pytest

import sim
from fastserve import Policy, check_policy
from fastserve.sched.conformance.check import ConformanceError
from fastserve.sched.errors import PolicyError
from fastserve.workload import synthesise


class Mutates(Policy):
    """Its ranks are lists that it changes after it has returned them."""

    settled = True

    def arrive(self, job):
        self.ranks = getattr(self, "ranks", {})
        self.ranks[job] = [job.id % 3]
        self.wake(job, waited=2 * self.machine.decode_ns)

    def rank(self, job):
        return self.ranks[job]

    def alarm(self, job, why):
        self.ranks[job][0] = (self.ranks[job][0] * 7919 + job.id) % 101
        self.rerank(job)


class Quits(Policy):
    settled = True

    def rank(self, job):
        raise SystemExit(0)


class Omits(Policy):
    def rank(self, job):
        return job.arrival

    def waiting(self):
        return iter(())


@pytest.fixture(scope="module")
def trace():
    return synthesise(120, rate=8.0, seed=1)


@pytest.mark.parametrize(
    ("policy", "words"),
    [(Mutates, "lost its place"), (Quits, "SystemExit"), (Omits, "name every waiting job")],
)
def test_a_run_names_the_policy_and_the_remedy(trace, policy, words):
    with pytest.raises(PolicyError, match=words) as caught:
        sim.replay(trace, policy=policy, rate=8.0, max_batch=4)
    assert policy.__name__ in str(caught.value)


@pytest.mark.parametrize("policy", [Mutates, Quits, Omits])
def test_check_policy_finds_them(policy):
    with pytest.raises(ConformanceError):
        check_policy(policy, quick=True)


def test_replay_reads_a_file_as_the_command_line_does(tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text("ts,a,b\n0,10,5\n1000,10,0\n2000,10,5\n3000,12,6\n")
    result = sim.replay(
        path, reading={"columns": "arrival=ts:ms,prompt=a,output=b", "lenient": True}, num_requests=2, request_rate=2.0
    )
    assert result.runs[0].summary["n"] == 2
    assert result.settings["dropped_rows"]


def test_a_seed_twice_and_a_load_of_one_request_are_refused(trace):
    with pytest.raises(ValueError, match="each once"):
        sim.replay(trace, rate=1.0, seeds=[3, 3])
    with pytest.raises(ValueError, match="two or more"):
        sim.replay(trace.head(1), load=0.8)
