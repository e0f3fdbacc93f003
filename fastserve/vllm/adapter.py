"""vLLM's scheduler with ours in it: ours decides who holds a place, and vLLM's own hands out tokens and blocks.

Each step: commit the plan of the step before; arrivals and cancels; plan; carry out on vLLM's `running` and `waiting`
who left, whose KV goes and who joined; vLLM schedules as ever; amend the plan to what vLLM did. No line of vLLM's is
patched. An exception in here would end every request of vLLM's process, so none leaves it: a policy that breaks is
followed by fcfs, and if that breaks, too, which is a bug here, by vLLM's own order.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from itertools import chain
from math import isfinite
from time import perf_counter_ns
from typing import Any, Final

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.scheduler import Scheduler as VllmScheduler

from fastserve.sched.errors import PolicyError
from fastserve.sched.plan import Plan
from fastserve.vllm import metrics
from fastserve.vllm.build import Maker, body_of
from fastserve.vllm.curtain import Curtain
from fastserve.vllm.driver import Driver
from fastserve.vllm.places import Places
from fastserve.vllm.refuse import refuse, refuse_configuration
from fastserve.vllm.settings import KEY, VllmSettings, check_version

log = logging.getLogger("vllm.fastserve")

COUNTS: Final = (
    "steps", "plans", "joined", "left", "parked", "unparked", "recomputed", "by_vllm", "dropped", "amended",
    "corrected", "unguessed", "stuck", "policy_failed", "ours_ns", "vllm_ns",
)  # fmt: skip
"""What is counted from the start on; metrics.py says what each is, and adds the present state."""


class Driven(VllmScheduler):  # type: ignore[misc]  # (it comes without types)
    """driver: None once our Scheduler has failed twice. Raises ValueError at the start for what cannot work."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warning = check_version()
        if warning is not None:
            log.warning("%s", warning)
        config = _config(args, kwargs)
        refuse_configuration(config)
        settings = VllmSettings.of(dict(config.additional_config or {}).get(KEY, {}))
        super().__init__(*args, **kwargs)
        settings = settings.of_engine(getattr(self.parallel_config, "data_parallel_index", 0))
        self.counts: dict[str, Any] = {**dict.fromkeys(COUNTS, 0), "levels": {}}
        self.ahead = isinstance(self, AsyncScheduler)
        self.body = body_of(self, settings)
        self.maker = Maker(settings, self.body, self._arrived, self.counts)
        self.driver: Driver | None = self.maker.driver(self.clock())
        self.places = Places(self, self.body.slots, self.counts)
        self.waiting = Curtain()
        self.kv_holding_waiting = Curtain()
        self.max_num_active_reqs = self.body.rows if self.body.parks else self.body.slots  # parked ones stay in running
        self.epoch = time.time_ns() - time.monotonic_ns()
        # Of each step in flight: ns when its scheduling began, and of how many requests a token is expected.
        self.begun: deque[tuple[int, int]] = deque()
        self.computing = 0  # steps in flight that compute anything
        self.last = 0  # ns: the end of the last step that did
        self.busy = False  # did it leave work to do?
        self.maker.log_start()

    @property
    def parked(self) -> dict[Any, None]:
        """Requests in `running` that get no tokens."""
        return self.places.parked

    # -- time; tests have their own --------------------------------------------------------------------------------

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
        seconds = request.arrival_time
        return self.arrival(request, max(0, int(seconds * 1e9) - self.epoch) if isfinite(seconds) else 0)

    # -- what vLLM tells -------------------------------------------------------------------------------------------

    def add_request(self, request: Any) -> None:
        super().add_request(request)
        if request.resumable:
            refuse(self, request, "streaming input is not supported with --scheduler-cls fastserve.vllm.scheduler")
        elif self.driver is not None and self.requests.get(request.request_id) is request:  # else more of that one
            self.driver.inbox.append(request)

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        gone = super().finish_requests(request_ids, finished_status)
        for request in gone:
            self.places.release(request)
            self._safely(Driver.finished, request)
        return gone

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super()._preempt_request(request, *args, **kwargs)
        self.places.release(request)
        self._safely(Driver.preempted, request)

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        now = self.clock()
        if reset_running_requests:
            self._safely(Driver.settle, self.last, now)
        done: bool = super().reset_prefix_cache(reset_running_requests, reset_connector)
        if reset_running_requests:
            self._safely(Driver.forget_all, now)
        elif done:
            self._safely(Driver.forget_idle, now)
        return done

    def shutdown(self) -> None:
        now = self.clock()
        self._safely(Driver.settle, self.last, now)
        self._safely(Driver.close, now)
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
        began = perf_counter_ns()
        now = self.clock()
        self.begun.append((now, 0))
        plan = self._safely(self._plan, now)
        asked = perf_counter_ns()
        output = super().schedule(*args, **kwargs)
        answered = perf_counter_ns()
        self._safely(self._accept, plan, output.num_scheduled_tokens, now)
        self.computing += bool(output.num_scheduled_tokens)
        counts = self.counts
        counts["steps"] += 1
        counts["vllm_ns"] += answered - asked
        counts["ours_ns"] += asked - began + perf_counter_ns() - answered
        return output

    def _plan(self, driver: Driver, now: int) -> Plan | None:
        driver.settle(self.last, now)
        driver.drain(now)
        if self._pause_state == PauseState.PAUSED_NEW:
            self.places.lend()
            return None
        self.places.take_back()
        manager, groups = self.kv_cache_manager, self.body.groups
        free = manager.block_pool.get_num_free_blocks()
        plan = driver.propose(now, free // groups, manager.watermark_blocks // groups)
        if plan is not None:
            self.counts["plans"] += 1
            self.places.enforce(driver, plan)
        return plan

    def _accept(self, driver: Driver, plan: Plan | None, scheduled: dict[str, int], now: int) -> None:
        if plan is None:
            driver.uneven = driver.uneven or bool(scheduled)
            return
        self.places.recall()
        if not (scheduled or self.computing) and self._pause_state == PauseState.UNPAUSED:
            self.places.unstick()
        self.begun[-1] = now, driver.accept(plan, scheduled, now)

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        began = perf_counter_ns()
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        told = perf_counter_ns()
        self.computing -= bool(scheduler_output.num_scheduled_tokens)
        self._safely(self._ended, self.begun.popleft(), scheduler_output, outputs)
        counts = self.counts
        counts["vllm_ns"] += told - began
        counts["ours_ns"] += perf_counter_ns() - told
        return outputs

    def _ended(self, driver: Driver, begun: tuple[int, int], scheduler_output: Any, outputs: Any) -> None:
        began, expected = begun
        scheduled = scheduler_output.num_scheduled_tokens
        by_client = [batch.outputs for batch in outputs.values()]
        driver.heard(by_client[0] if len(by_client) == 1 else list(chain(*by_client)), scheduled, expected)
        if driver.ended and (self.places.parked or self.places.lent):  # some by a token that was in flight
            for job in driver.ended:
                self.places.release(driver.requests[job])
        if scheduled:
            # What the host takes between two steps belongs to the later one, as in the simulator.
            now = self.clock()
            driver.service += self.step_ns(self.last if self.busy else max(began, self.last), now, scheduler_output)
            self.last = now
        self.busy = bool(scheduled) and (len(self.running) > 0 or len(self.waiting) > 0)

    # -- when something breaks -------------------------------------------------------------------------------------

    def _safely(self, do: Any, *facts: Any) -> Any:
        """do(driver, *facts); None where that has failed, or where vLLM is on its own."""
        driver = self.driver
        if driver is None:
            return None
        try:
            return do(driver, *facts)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                raise  # Ctrl-C in a program that runs vLLM inside itself; vLLM's own processes have another handler
            self._failed(driver, error)
            return None

    def _failed(self, driver: Driver, error: BaseException) -> None:
        """fcfs takes every live request, once; then vLLM is on its own. The flight log and the records end here."""
        counts = self.counts
        counts["policy_failed"] += 1
        first = counts["policy_failed"] == 1
        who = f"policy {self.maker.spec.name}" if isinstance(error, PolicyError) else "fastserve"
        then = "requests are served as fcfs" if first else "vLLM goes by its own order"
        log.error("%s has failed, and from here on %s: %s", who, then, error, exc_info=error)
        self.driver = None
        try:
            driver.close(self.clock())
            if first:
                self.places.clear()
                self.driver = self.maker.successor(driver)
                self.driver.inbox = [request for request in self.requests.values() if not request.is_finished()]
                self.driver.uneven = True  # of what is in flight it knows nothing
        except (Exception, SystemExit) as another:
            log.error("fastserve has failed again, and from here on vLLM goes by its own order", exc_info=another)
        if self.driver is None:
            self.max_num_active_reqs = self.body.slots
            self.places.open()


class DrivenAhead(Driven, AsyncScheduler):  # type: ignore[misc]
    """The same where vLLM schedules a step before it knows what the last one has yielded."""


def make(*args: Any, **kwargs: Any) -> Driven:
    """What vLLM calls as its scheduler's class."""
    config = _config(args, kwargs)
    return (DrivenAhead if config.scheduler_config.async_scheduling else Driven)(*args, **kwargs)


def _config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return kwargs["vllm_config"] if "vllm_config" in kwargs else args[0]
