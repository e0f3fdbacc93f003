"""Are faults found? Each is planted on purpose, in what carries out our plans or in our own bookkeeping."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.api import Api
from tests.vllm.cases import HERE, draw
from tests.vllm.drive import serve

Patch = pytest.MonkeyPatch
TRIES = 40


def double_block(patch: Patch, api: Api) -> None:
    """A cached block that is found again can still be given to somebody else."""
    from vllm.v1.core.block_pool import BlockPool

    def touch(self: Any, blocks: Any) -> None:
        for block in blocks:
            block.ref_cnt += block.ref_cnt > 0

    patch.setattr(BlockPool, "touch", touch)


def long_hit(patch: Patch, api: Api) -> None:
    """The prefix cache finds a block by another name."""
    from vllm.v1.core.kv_cache_manager import KVCacheManager

    inner = KVCacheManager.get_computed_blocks

    def get_computed_blocks(self: Any, request: Any) -> Any:
        names = request.block_hashes
        if len(names) > 3:
            request.block_hashes = [*names[:2], *names[3:], names[2]]
        found = inner(self, request)
        request.block_hashes = names
        return found

    patch.setattr(KVCacheManager, "get_computed_blocks", get_computed_blocks)


def twice(patch: Patch, api: Api) -> None:
    """A token is delivered twice."""
    from fastserve.vllm.adapter import Driven

    inner = Driven.update_from_output

    def update_from_output(self: Any, *facts: Any) -> Any:
        outputs = inner(self, *facts)
        for batch in outputs.values():
            for output in batch.outputs[:1]:
                if self.current_step % 50 == 0:
                    output.new_token_ids = output.new_token_ids * 2
        return outputs

    patch.setattr(Driven, "update_from_output", update_from_output)


def leaked_block(patch: Patch, api: Api) -> None:
    """Who is preempted keeps a block."""
    from fastserve.vllm.adapter import Driven

    inner = Driven._preempt_request

    def _preempt_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> None:
        pool = self.kv_cache_manager.block_pool
        pool.touch(self.kv_cache_manager.get_blocks(request.request_id).blocks[0][:1])
        inner(self, request, *args, **kwargs)

    patch.setattr(Driven, "_preempt_request", _preempt_request)


def no_park(patch: Patch, api: Api) -> None:
    """Who is parked goes on getting tokens."""
    from fastserve.vllm import places

    patch.setattr(places, "FAR", 0)


def no_unpark(patch: Patch, api: Api) -> None:
    """Who comes back from its row gets none."""
    from fastserve.vllm.places import Places

    inner = Places.release

    def release(self: Any, request: Any) -> None:
        inner(self, request)
        if request.num_computed_tokens:
            request.next_decode_eligible_step = 1 << 60

    patch.setattr(Places, "release", release)


def no_recall(patch: Patch, api: Api) -> None:
    """Who was called and could not start stays in front of the curtain."""
    from fastserve.vllm.curtain import Curtain

    patch.setattr(Curtain, "recall", lambda self: None)


def everybody_called(patch: Patch, api: Api) -> None:
    """The curtain hides nobody."""
    from fastserve.vllm.curtain import Curtain

    patch.setattr(Curtain, "add_request", lambda self, request: self.called.append(request))


def lost_end(patch: Patch, api: Api) -> None:
    """The Scheduler is not told of some ends."""
    from fastserve.vllm.driver import Driver

    inner = Driver.heard

    def heard(self: Any, *facts: Any) -> None:
        inner(self, *facts)
        self.ended = [job for job in self.ended if job.id % 5]

    patch.setattr(Driver, "heard", heard)


def kept_request(patch: Patch, api: Api) -> None:
    """Something of a request that is over is kept."""
    from fastserve.vllm.driver import Driver

    patch.setattr(Driver, "_forget", lambda self, job: None)


def no_correction(patch: Patch, api: Api) -> None:
    """Tokens that were counted wrongly ahead stay so."""
    from fastserve.vllm.driver import Driver

    patch.setattr(Driver, "_correct", lambda self, job, tokens, now: None)


def silent_pool(patch: Patch, api: Api) -> None:
    """The flight log is not told of the pool's size."""
    from fastserve.flightlog.write import FlightLog

    patch.setattr(FlightLog, "pool_resized", lambda self, blocks, now: None)


def silent_amendment(patch: Patch, api: Api) -> None:
    """The flight log is not told what vLLM has done otherwise."""
    from fastserve.flightlog.write import FlightLog

    patch.setattr(FlightLog, "amended", lambda self, plan, now: None)


def drifted_sum(patch: Patch, api: Api) -> None:
    """A sum of the Scheduler drifts from its jobs."""
    from fastserve.sched.kv import Ledger

    inner = Ledger.roll

    def roll(self: Any, job: Any, sign: int) -> Any:
        return inner(self, job, sign) if job.id % 7 or sign > 0 else None

    patch.setattr(Ledger, "roll", roll)


def raises_out(patch: Patch, api: Api) -> None:
    """An exception leaves schedule()."""
    from fastserve.vllm.adapter import Driven

    def _safely(self: Any, do: Any, *facts: Any) -> Any:
        return do(self.driver, *facts)

    patch.setattr(Driven, "_safely", _safely)


ALWAYS = [HERE + "Chaos", HERE + "Rotate", "las"]
PLANTED: dict[Callable[[Patch, Api], None], list[str]] = {
    double_block: ALWAYS, long_hit: ALWAYS, twice: ALWAYS, leaked_block: ALWAYS, no_park: ALWAYS, no_unpark: ALWAYS,
    no_recall: ALWAYS, everybody_called: ALWAYS, lost_end: ALWAYS, kept_request: ALWAYS, no_correction: ALWAYS,
    silent_pool: ALWAYS, silent_amendment: ALWAYS, drifted_sum: ALWAYS, raises_out: [HERE + "Breaks"],
}  # fmt: skip
"""Fault -> the policies under which it is looked for."""


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(
    api: Api, tmp_path: Path, monkeypatch: Patch, plant: Callable[[Patch, Api], None]
) -> None:
    rng = random.Random(plant.__name__)
    plant(monkeypatch, api)
    for number in range(TRIES):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            serve(api, draw(rng, PLANTED[plant]), folder)
        except (Exception, SystemExit):
            return
    pytest.fail(f"{TRIES} cases, and nobody noticed: {plant.__doc__}")
