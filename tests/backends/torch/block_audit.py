"""Do physical blocks and the Scheduler's books tell the same story?"""

from __future__ import annotations

from collections import Counter

from fastserve.backends.torch.block_manager import BlockManager
from fastserve.sched.scheduler import Scheduler
from fastserve.sched.sharing import SharedLedger


def audit_blocks(blocks: BlockManager, scheduler: Scheduler) -> None:
    """AssertionError if not. Between commit() and plan(): every block is in one place, blocks in use are those of
    distinct units and of what each job has beside them, and the sums are the ledger's.
    """
    ledger = scheduler.ledger
    size = blocks.size
    inbound = [block for move in blocks.moves.values() if not move.copy.out for block in move.device]
    outbound = [block for move in blocks.moves.values() if move.copy.out for block in move.host]
    own = [block for job, table in blocks.tables.items() for block in table[size * blocks.shared.get(job, 0) :]]
    units = [block for unit in blocks.units.values() for block in unit]
    device = [*blocks.device.free, *inbound, *own, *units]
    stored = [block for unit in blocks.stored.values() for block in unit]
    host = [*blocks.host.free, *outbound, *[block for table in blocks.away.values() for block in table], *stored]
    assert sorted(device) == list(range(blocks.device.size))
    assert sorted(host) == list(range(blocks.host.size))
    for job, table in blocks.tables.items():
        shared = job.ids[: blocks.shared.get(job, 0)]
        assert table[: size * len(shared)] == [block for id in shared for block in blocks.units[id]]
    idle = 0
    if isinstance(ledger, SharedLedger):
        assert {job: n for job, n in blocks.shared.items() if n} == {j: j.shared for j in scheduler.live if j.shared}
        tree = ledger.tree
        there = Counter(run.ids[at] for run in tree.first.values() for at in range(run.start, run.end))
        there.update(id for ids, start, end in tree.lost for id in ids[start:end])  # to go by the next plan here
        assert there == Counter(list(blocks.units))
        idle = tree.idle_units + sum(end - start for _, start, end in tree.lost)
        live = {id for job in scheduler.live for id in job.ids[: job.shared]}
        left = {id for copy in ledger.copies if copy.units for id in copy.job.ids[: copy.job.shared]} - live
        if not tree.lost:  # who copies units out holds them in the books alone
            assert blocks.idle() == size * (tree.idle_units + len(left))
    else:
        assert not blocks.units and not blocks.shared
    coming = sum([ledger.need(job) - len(blocks.tables.get(job, ())) for job in scheduler.running])
    assert len(device) - len(blocks.device.free) == ledger.used + ledger.cold + size * idle - coming
    tier = ledger.tier if isinstance(ledger, SharedLedger) else None
    kept = 0
    if tier is not None:
        new = {id for copy in ledger.copies if copy.units for id in copy.units[0][copy.units[1] : copy.units[2]]}
        told = {run.ids[at] for run in tier.tree.first.values() for at in range(run.start, run.end)} - new
        assert told | {id for ids, start, end in tier.forgotten for id in ids[start:end]} == set(blocks.stored)
        kept = len(stored) + sum(
            [move.copy.blocks for move in blocks.moves.values() if move.copy.units and move.copy.out]
        )
    assert len(host) - len(blocks.host.free) == ledger.hosted + kept
    assert set(blocks.tables) | set(blocks.away) <= set(scheduler.live)
