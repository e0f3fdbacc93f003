"""vLLM's scheduler with ours in it: ours decides who holds a place, and vLLM's own hands out tokens and blocks.

Each step: commit the plan of the step before; submits and cancels; plan; enforce who left, whose KV goes and who joins
on vLLM's `running` and `waiting`; vLLM schedules as ever; amend the plan to what vLLM did. An exception in here would
end every request of vLLM's process, so none leaves it: a policy that breaks is followed by fcfs, and that by vLLM's own
order.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from itertools import chain
from time import perf_counter_ns
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from fastserve.policies.spec import PolicySpec
from fastserve.sched.errors import PolicyError
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from fastserve.vllm import metrics
from fastserve.vllm.build import Body, Maker
from fastserve.vllm.curtain import Curtain
from fastserve.vllm.driver import Driver
from fastserve.vllm.refuse import refuse, refuse_configuration
from fastserve.vllm.request import Reader
from fastserve.vllm.settings import KEY, VllmSettings, check_version, installed

log = logging.getLogger("vllm.fastserve")

FAR = 1 << 60
"""A step that never comes: a request that is eligible from there on stays in vLLM's `running` and gets no tokens."""

COUNTS = (
    "steps", "plans", "joined", "left", "parked", "unparked", "recomputed", "by_vllm", "dropped", "amended",
    "corrected", "unguessed", "stuck", "policy_failed", "ours_ns", "vllm_ns", "running", "waiting",
)  # fmt: skip


class Driven(Scheduler):  # type: ignore[misc]  # vLLM has no types for others
    """counts: what has happened so far, and now; see COUNTS. `levels`: queue level -> jobs.

    parked: in `running` without tokens. began: of each step in flight, ns from which it is charged and how many
    requests it yields a token for.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        warning = check_version()
        if warning is not None:
            log.warning("%s", warning)
        refuse_configuration(self)
        settings = VllmSettings.of(dict(self.vllm_config.additional_config or {}).get(KEY, {}))
        settings = settings.of_engine(getattr(self.parallel_config, "data_parallel_index", 0))
        self.counts: dict[str, Any] = {**dict.fromkeys(COUNTS, 0), "levels": {}}
        self.groups = max(1, len(self.kv_cache_config.kv_cache_groups))
        self.maker = Maker(settings, self._body(settings))
        self.waiting = Curtain()
        self.kv_holding_waiting = Curtain()
        self.parked: dict[Any, None] = {}
        self.lent: dict[Any, None] = {}  # parked ones that run while vLLM is paused for new requests
        self.began: deque[tuple[int, int]] = deque()
        self.flying = 0  # steps in flight that compute something
        self.last = 0  # ns: the end of the last step
        self.busy = False  # did it leave work to do?
        self.epoch = time.time_ns() - time.monotonic_ns()
        body = self.maker.body
        if body.parks:
            self.max_num_active_reqs = body.rows  # parked ones stay in `running`
        self.driver: Driver | None = self._drive(self.maker.spec)
        self.driver.observers = self.maker.observers(self.driver.scheduler, self.driver.requests, self.clock())
        log.info(
            "fastserve: policy %s, %d slots of %d rows, a request that leaves %s", settings.policy, body.slots, body.rows,
            "keeps its KV" if body.parks else "is recomputed",
        )  # fmt: skip

    def _body(self, settings: VllmSettings) -> Body:
        rows = self.max_num_running_reqs
        shares = (
            self.cache_config.enable_prefix_caching and self.groups == 1 and self.hash_block_size == self.block_size
        )
        if settings.cache == "on" and not shares:
            log.warning("cache=on: vLLM caches no prefixes here, or in several groups of KV; they are not followed")
        return Body(
            slots=min(settings.slots or self.max_num_active_reqs, rows),
            rows=rows,
            budget=self.max_num_scheduled_tokens,
            blocks=(self.kv_cache_config.num_blocks - 1) // self.groups,  # (one is vLLM's own)
            block=self.block_size,
            drafts=self.num_spec_tokens,
            longest=self.max_model_len,
            # vLLM asserts that the adapters of all who run fit max_loras, whoever comes back.
            parks=settings.leave == "park" and self.lora_config is None,
            shares=shares and settings.cache != "off",
            ahead=isinstance(self, AsyncScheduler),
            release=installed() or "unknown",
        )

    def _drive(self, spec: PolicySpec, next_id: int = 0) -> Driver:
        scheduler = self.maker.scheduler(spec)
        body = self.maker.body
        reader = Reader("guess" in scheduler.policy.needs, body.block if body.shares else 0, self.counts)
        reader.next_id = next_id
        return Driver(
            scheduler, reader, self._arrived, parks=body.parks, longest=body.longest, counts=self.counts
        )  # fmt: skip

    # -- time: tests have another --------------------------------------------------------------------------------

    def clock(self) -> int:
        """ns, monotonic."""
        return time.monotonic_ns()

    def arrival(self, request: Any, ns: int) -> int:
        """ns on clock()."""
        return ns

    def step_ns(self, began: int, ended: int, output: Any) -> int:
        """What a step is charged with, ns."""
        return ended - began

    def _arrived(self, request: Any) -> int:
        return self.arrival(request, max(0, int(request.arrival_time * 1e9) - self.epoch))

    # -- what vLLM tells -------------------------------------------------------------------------------------------

    def add_request(self, request: Any) -> None:
        super().add_request(request)
        if request.resumable:
            refuse(self, request, "streaming input is not supported with --scheduler-cls fastserve.vllm.scheduler")
        elif self.driver is not None:
            self.driver.inbox.append(request)

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        gone = super().finish_requests(request_ids, finished_status)
        for request in gone:
            self._unpark(request)
            if self.driver is not None:
                self.driver.finished(request)
        return gone

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        t0 = perf_counter_ns()
        self.flying -= bool(scheduler_output.num_scheduled_tokens)
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        t1 = perf_counter_ns()
        self._safely(self._ended, scheduler_output, outputs)
        self.counts["vllm_ns"] += t1 - t0
        self.counts["ours_ns"] += perf_counter_ns() - t1
        return outputs

    def _ended(self, driver: Driver, scheduler_output: Any, outputs: Any) -> None:
        began, expected = self.began.popleft()
        told = [batch.outputs for batch in outputs.values()]  # of each of vLLM's API processes
        told_all = told[0] if len(told) == 1 else list(chain(*told))
        driver.heard(told_all, scheduler_output.num_scheduled_tokens, expected)
        for job in driver.ended if self.parked or self.lent else ():  # by a token that was in flight
            self._unpark(driver.requests[job])
        now = self.clock()
        if scheduler_output.total_num_scheduled_tokens:
            # The time between two steps is the host's, and belongs to the later one, as in the simulator.
            driver.service += self.step_ns(max(began, self.last) if not self.busy else self.last, now, scheduler_output)
            self.last = now
            self.busy = bool(self.running) or len(self.waiting) > 0
        else:
            self.busy = False

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        if reset_running_requests:
            self._safely(self._settle)
        done: bool = super().reset_prefix_cache(reset_running_requests, reset_connector)
        if reset_running_requests:
            self._safely(lambda driver: driver.forget_all(self.clock()))
        elif done:
            self._safely(lambda driver: driver.forget_idle(self.clock()))
        return done

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super()._preempt_request(request, *args, **kwargs)
        self._unpark(request)
        if self.driver is not None:
            self.driver.preempted(request)

    def shutdown(self) -> None:
        self._safely(self._settle)
        if self.driver is not None:
            self._safely(lambda driver: driver.close(self.clock()))
        super().shutdown()

    def make_stats(self, *args: Any, **kwargs: Any) -> Any:
        stats = super().make_stats(*args, **kwargs)
        if stats is not None and metrics.due(self.counts, idle=not (self.running or len(self.waiting))):
            if self.driver is None:
                metrics.look(self)
            self._safely(lambda driver: metrics.look(self))
            return metrics.attach(stats, self.counts)
        return stats

    # -- a step ----------------------------------------------------------------------------------------------------

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        t0 = perf_counter_ns()
        now = self.clock()
        plan = self._safely(self._plan, now)
        t1 = perf_counter_ns()
        output = super().schedule(*args, **kwargs)
        t2 = perf_counter_ns()
        self.began.append((now, 0))
        self._safely(self._accept, plan, output, now)
        self.flying += bool(output.num_scheduled_tokens)
        counts = self.counts
        counts["steps"] += 1
        counts["vllm_ns"] += t2 - t1
        counts["ours_ns"] += t1 - t0 + perf_counter_ns() - t2
        return output

    def _settle(self, driver: Driver) -> None:
        driver.settle(self.last, self.clock())

    def _plan(self, driver: Driver, now: int) -> Plan | None:
        driver.settle(self.last, now)
        driver.drain(now)
        if self._pause_state == PauseState.PAUSED_NEW:
            self._lend()
            return None
        self._take_back()
        free = self.kv_cache_manager.block_pool.get_num_free_blocks() // self.groups
        plan = driver.propose(now, free)
        if plan is not None:
            self.counts["plans"] += 1
            self._enforce(driver, plan)
        return plan

    def _accept(self, driver: Driver, plan: Plan | None, output: Any, now: int) -> None:
        if plan is None:
            driver.uneven = driver.uneven or bool(output.num_scheduled_tokens)
            return
        self.waiting.recall()
        self.kv_holding_waiting.recall()
        if not output.num_scheduled_tokens and not self.flying and self._pause_state == PauseState.UNPAUSED:
            self._unstick()
        expected = driver.accept(plan, output.num_scheduled_tokens, now)
        self.began[-1] = now, expected

    # -- enforcing a plan ------------------------------------------------------------------------------------------

    def _enforce(self, driver: Driver, plan: Plan) -> None:
        joined, left = plan.joined, plan.left
        prefilling = driver.scheduler.prefilling
        if joined or left or plan.moves is not None:
            self._move(driver, plan)
        elif not prefilling:
            return
        chunks = [driver.requests[job] for job, _ in plan.prefill]
        for request in chunks:
            self.waiting.call(request)
            self.kv_holding_waiting.call(request)
        for job in prefilling:
            request = driver.requests[job]
            if request not in chunks:
                request.next_decode_eligible_step = self.current_step + 2  # not in this step: others come first
        if joined or left or len(prefilling) > 1:
            self._arrange(driver, chunks)

    def _move(self, driver: Driver, plan: Plan) -> None:
        counts, requests = self.counts, driver.requests
        joined, left = plan.joined, plan.left
        counts["joined"] += len(joined)
        counts["left"] += len(left)
        counts["dropped"] += len(plan.drop)
        gone = dict.fromkeys(plan.drop if driver.parks else chain(left, plan.drop))
        for job in gone:
            self._evict(driver, requests[job], job)
        for job in left:
            if job not in gone:
                self._park(requests[job])
        for job in joined:
            if requests[job] in self.parked:
                self._unpark(requests[job])
                counts["unparked"] += 1

    def _park(self, request: Any) -> None:
        if request.status == RequestStatus.RUNNING:
            self.parked[request] = None
            request.next_decode_eligible_step = FAR
            self.counts["parked"] += 1

    def _unpark(self, request: Any) -> None:
        """It goes on with its KV, or is gone."""
        if request in self.parked or request in self.lent:
            self.parked.pop(request, None)
            self.lent.pop(request, None)
            request.next_decode_eligible_step = 0

    def _evict(self, driver: Driver, request: Any, job: Job) -> None:
        """vLLM's recompute preemption."""
        if request.status == RequestStatus.RUNNING:
            self.running.remove(request)
            self._preempt_request(request, time.monotonic())
            driver.lost.pop(job, None)
            self.counts["recomputed"] += 1

    def _arrange(self, driver: Driver, best: list[Any]) -> None:
        """Decodes first, so that no chunk of a prefill takes their tokens; then prefills, the best first; then parked
        ones, the coldest last: that is whom vLLM preempts when it has no block left.
        """
        decodes: list[Any] = []
        chunks: list[Any] = []
        parked: list[tuple[Any, Any]] = []
        jobs = driver.jobs
        prefilling = driver.scheduler.prefilling
        for request in self.running:
            job = jobs.get(request.request_id)
            if request in self.parked:
                parked.append((() if job is None or job.entry is None else job.entry[:3], request))
            elif job in prefilling:
                chunks.append(request)
            else:
                decodes.append(request)
        if len(chunks) > 1:
            chunks = list(dict.fromkeys(chain([request for request in best if request in chunks], chunks)))
        if len(parked) > 1:
            parked.sort(key=lambda entry: entry[0])
        self.running = [*decodes, *chunks, *[request for _, request in parked]]

    # -- while vLLM takes nobody new -------------------------------------------------------------------------------

    def _lend(self) -> None:
        """Who is parked must come to its end, too, as places fall free."""
        free = self.maker.body.slots - (len(self.running) - len(self.parked))
        for request in list(self.parked)[: max(0, free)]:
            self._unpark(request)
            self.lent[request] = None

    def _take_back(self) -> None:
        if self.lent:
            for request in self.lent:
                self._park(request)
            self.lent.clear()

    def _unstick(self) -> None:
        """vLLM can start nobody though nobody runs: it keeps more blocks free than our books know. As if it had done so
        itself, it preempts the coldest of those parked.
        """
        if self.running and self.running[-1] in self.parked:
            self._preempt_request(self.running.pop(), time.monotonic())
            self.counts["stuck"] += 1

    # -- when something breaks -------------------------------------------------------------------------------------

    def _safely(self, do: Any, *facts: Any) -> Any:
        """What it returns; None where it failed, or where vLLM is on its own."""
        driver = self.driver
        if driver is None:
            return None
        try:
            return do(driver, *facts)
        except (Exception, SystemExit) as error:
            self._failed(driver, error)
            return None

    def _failed(self, driver: Driver, error: BaseException) -> None:
        self.counts["policy_failed"] += 1
        second = self.counts["policy_failed"] > 1
        what = "vLLM's own order from here on" if second else "served as fcfs from here on"
        whose = f"policy {self.maker.settings.policy}" if isinstance(error, PolicyError) else "fastserve"
        log.error("%s failed; %s: %s", whose, what, error, exc_info=error)
        self.driver = None
        try:
            driver.close(self.clock())
            if not second:
                self._start_over(driver)
                return
        except (Exception, SystemExit) as another:
            log.error("fastserve failed again; vLLM's own order from here on: %s", another, exc_info=another)
        self._step_aside()

    def _start_over(self, driver: Driver) -> None:
        """All KV is given up, as reset_prefix_cache() has it, and fcfs takes every live request."""
        fresh = self._drive(PolicySpec("fcfs"), driver.reader.next_id)
        while self.running:
            self._preempt_request(self.running.pop(), time.monotonic())
        self.prev_step_scheduled_req_ids.clear()
        self.waiting.recall()
        self.kv_holding_waiting.recall()
        fresh.inbox = [request for request in self.requests.values() if not request.is_finished()]
        fresh.uneven = True
        self.driver = fresh

    def _step_aside(self) -> None:
        self.driver = None
        for request in chain(self.parked, self.lent):
            request.next_decode_eligible_step = 0
        self.parked.clear()
        self.lent.clear()
        self.waiting.open()
        self.kv_holding_waiting.open()
        self.max_num_active_reqs = self.maker.body.slots


class DrivenAhead(Driven, AsyncScheduler):
    """The same where vLLM schedules a step before it knows what the last one has yielded."""


def make(*args: Any, **kwargs: Any) -> Driven:
    """What vLLM calls as its scheduler's class."""
    config = kwargs["vllm_config"] if "vllm_config" in kwargs else args[0]
    return (DrivenAhead if config.scheduler_config.async_scheduling else Driven)(*args, **kwargs)
