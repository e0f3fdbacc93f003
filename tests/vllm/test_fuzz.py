"""Our Scheduler inside vLLM's: random cases. Where vLLM is not installed, on the stand-ins."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.vllm.api import Api
from tests.vllm.cases import HERE, HOOKS, NAMED, ODD, Case, draw
from tests.vllm.drive import Drive, serve

CASES = 3  # of each group: some 30 s


@pytest.mark.parametrize("policy", ["plain", *NAMED, *(HERE + name for name in ODD)])
def test_any_policy(api: Api, tmp_path: Path, policy: str) -> None:
    rng = random.Random(policy)
    for number in range(CASES):
        case = draw(rng, [policy])
        folder = tmp_path / str(number)
        folder.mkdir()
        drive = attempted(api, case, folder)
        assert drive.told


@pytest.mark.parametrize("how", ["raise", "odd", "exit", "outside"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_policy_that_breaks_is_followed_by_fcfs(api: Api, tmp_path: Path, hook: str, how: str) -> None:
    rng = random.Random(hook + how)
    after = rng.choice([0, 1, 10, 60])
    case = draw(rng, [HERE + "Breaks"]).but(knobs={"hook": hook, "after": after, "how": how}, stats=hook == "explain")
    attempted(api, case, tmp_path)


def attempted(api: Api, case: Case, folder: Path) -> Drive:
    try:
        return serve(api, case, folder)
    except Exception as error:
        raise AssertionError(f"python -m tests.vllm.fuzz --case '{case}'") from error
