"""Places: carries a plan out on vLLM's `running` and `waiting`. Who leaves is parked, or preempted as vLLM does it; who
joins goes on with its KV, or is shown to vLLM's scheduler, which starts it.

A parked request stays in `running`, in its row of the runner, with its blocks: vLLM gives no tokens before the step
number `next_decode_eligible_step`, which is set to one that never comes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import chain
from typing import Any, Final

from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from fastserve.vllm.driver import Driver

FAR: Final = 1 << 60


class Places:
    """vllm: the scheduler, with curtains for its waiting queues. slots: how many share a step."""

    def __init__(self, vllm: Any, slots: int, counts: dict[str, Any]) -> None:
        self.vllm = vllm
        self.slots = slots
        self.counts = counts
        self.parked: dict[Any, None] = {}
        self.lent: dict[Any, None] = {}  # parked ones that run all the same, see lend()

    def enforce(self, driver: Driver, plan: Plan) -> None:
        prefilling = driver.scheduler.prefilling
        moves = bool(plan.joined or plan.left or plan.moves is not None)
        if moves:
            self._move(driver, plan)
        elif not prefilling:
            return
        chunks = dict.fromkeys([driver.requests[job] for job, _ in plan.prefill])
        for request in chunks:
            self.vllm.waiting.call(request)
            self.vllm.kv_holding_waiting.call(request)
        if not driver.refused:
            for job in prefilling:
                request = driver.requests[job]
                if request not in chunks:  # others are to have all tokens of this step; vLLM would serve it first
                    request.next_decode_eligible_step = self.vllm.current_step + 2
        if moves or len(prefilling) > 1:
            self._arrange(driver, chunks)

    def _move(self, driver: Driver, plan: Plan) -> None:
        counts, requests = self.counts, driver.requests
        counts["joined"] += len(plan.joined)
        counts["left"] += len(plan.left)
        counts["dropped"] += len(plan.drop)
        gone = dict.fromkeys(plan.drop if driver.parks else chain(plan.left, plan.drop))
        for job in gone:
            self._evict(driver, job)
        for job in plan.left:
            if job not in gone:
                self._park(requests[job])
                counts["parked"] += 1
        for job in plan.joined:
            if requests[job] in self.parked:
                self.release(requests[job])
                counts["unparked"] += 1

    def _park(self, request: Any) -> None:
        if _runs(request):
            self.parked[request] = None
            request.next_decode_eligible_step = FAR

    def release(self, request: Any) -> None:
        """It goes on with its KV, or is gone for good."""
        if request in self.parked or request in self.lent:
            self.parked.pop(request, None)
            self.lent.pop(request, None)
            request.next_decode_eligible_step = 0

    def _evict(self, driver: Driver, job: Job) -> None:
        request = driver.requests[job]
        if _runs(request):
            self.vllm.running.remove(request)
            self.vllm._preempt_request(request, time.monotonic())
            driver.lost.pop(job, None)  # this was no doing of vLLM's
            self.counts["recomputed"] += 1

    def _arrange(self, driver: Driver, best: Mapping[Any, None]) -> None:
        """Decodes first, so that no chunk of a prefill takes their tokens; then prefills, the best first; then parked
        ones, the coldest last: that is whom vLLM preempts when it has no block left.
        """
        decodes: list[Any] = []
        chunks: list[Any] = []
        parked: list[Any] = []
        jobs, prefilling = driver.jobs, driver.scheduler.prefilling
        for request in self.vllm.running:
            if request in self.parked:
                parked.append(request)
            elif jobs.get(request.request_id) in prefilling:
                chunks.append(request)
            else:
                decodes.append(request)
        if len(chunks) > 1:
            running = dict.fromkeys(chunks)
            chunks = list(dict.fromkeys(chain([request for request in best if request in running], running)))
        if len(parked) > 1 and not driver.scheduler.ranking.own_queue:  # by the ranks that were read last
            entries = {request: jobs[request.request_id].entry for request in parked}
            parked.sort(key=lambda request: (entries[request] or ())[:3])
        self.vllm.running = [*decodes, *chunks, *parked]

    def unstick(self) -> None:
        """vLLM starts nobody, and nobody runs: it keeps more blocks free than our books know. As it would preempt for
        want of them, it does: the coldest of those parked.
        """
        running = self.vllm.running
        if running and running[-1] in self.parked:
            self.vllm._preempt_request(running.pop(), time.monotonic())
            self.counts["stuck"] += 1
            self.counts["by_vllm"] -= 1  # as which the driver will count it

    # -- while vLLM takes nobody new -------------------------------------------------------------------------------

    def lend(self) -> None:
        """There are no plans. Who is parked must come to its end, too, as slots fall free."""
        free = self.slots - (len(self.vllm.running) - len(self.parked))
        for request in list(self.parked)[: max(0, free)]:
            self.release(request)
            self.lent[request] = None

    def take_back(self) -> None:
        if self.lent:
            for request in self.lent:
                self._park(request)
            self.lent.clear()

    # -- when our Scheduler has broken -----------------------------------------------------------------------------

    def clear(self) -> None:
        """All KV is given up, as reset_prefix_cache() has it, and everybody waits."""
        running = self.vllm.running
        while running:
            self.vllm._preempt_request(running.pop(), time.monotonic())
        self.vllm.prev_step_scheduled_req_ids.clear()  # for whoever is started again at once
        self.recall()

    def recall(self) -> None:
        """Whom vLLM was shown and has not started waits behind the curtain again."""
        self.vllm.waiting.recall()
        self.vllm.kv_holding_waiting.recall()

    def open(self) -> None:
        """vLLM is on its own."""
        for request in [*self.parked, *self.lent]:
            self.release(request)
        self.vllm.waiting.open()
        self.vllm.kv_holding_waiting.open()


def _runs(request: Any) -> bool:
    return bool(request.status.name == "RUNNING")
