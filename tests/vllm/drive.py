"""Drives one Case through a scheduler and the made-up runner, as vLLM's engine core does, and checks everything."""

from __future__ import annotations

import random
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.vllm import ours
from tests.vllm.api import Api
from tests.vllm.cases import BLOCK, Arrival, Case
from tests.vllm.runner import Runner, cost, generate

IDLE = 1_000_000  # ns that pass where nothing could be done; more the longer that lasts
PATIENCE = 1_000  # such steps in a row, and it is stuck


class Stuck(AssertionError):
    """Requests wait, nothing happens, and nothing will."""


class Drive:
    """One run. schedule, given: of each step, the tokens of each request, the blocks."""

    def __init__(self, api: Api, case: Case, clock: ours.Run) -> None:
        self.api = api
        self.case = case
        self.clock = clock
        self.scheduler = clock.scheduler
        self.rng = random.Random(case.seed + 1)
        self.runner = Runner(BLOCK, v2=case.v2, ahead=case.ahead, drafts=case.drafts, seed=case.seed + 2)
        self.todo = deque(case.arrivals())
        self.told: dict[str, Arrival] = {}
        self.got: dict[str, list[int]] = {}
        self.reasons: dict[str, str] = {}
        self.ended: dict[str, int] = {}
        self.aborted: set[str] = set()
        self.compiling: list[tuple[int, Any, str]] = []
        self.flying: deque[tuple[Any, Any]] = deque()
        self.schedule: list[dict[str, int]] = []
        self.given: list[list[tuple[list[int], ...] | None]] = []
        self.preempted: Counter[str] = Counter()
        self.idle = 0
        self.counts: dict[str, int] = {}

    def run(self) -> None:
        """To the end of every request."""
        while self.todo or self.scheduler.has_requests() or self.flying or self._paused():
            self._arrive()
            self._disturb()
            self._step()

    # -- what comes from outside -----------------------------------------------------------------------------------

    def _arrive(self) -> None:
        if not self.scheduler.has_requests() and not self.flying and self.todo:
            self.clock.now = max(self.clock.now, self.todo[0].at)
        while self.todo and self.todo[0].at <= self.clock.now:
            told = self.todo.popleft()
            self.told[told.id] = told
            request = self.api.request(told, self.case)
            if told.grammar:
                self.compiling.append((self.clock.now + 40_000_000, request, told.grammar))
                request.structured_output_request.grammar = None
            self.scheduler.add_request(request)
        for entry in [entry for entry in self.compiling if entry[0] <= self.clock.now]:
            self.compiling.remove(entry)
            _, request, how = entry
            request.structured_output_request.grammar = ValueError("no grammar") if how == "broken" else object()

    def _disturb(self) -> None:
        case, scheduler = self.case, self.scheduler
        self._abort()
        if case.resets and self.rng.random() < case.resets:
            everybody = self.rng.random() < 0.7
            assert scheduler.reset_prefix_cache(reset_running_requests=everybody) or not everybody
        if case.pauses:
            states = self.api.PauseState
            if self._paused():
                if self.rng.random() < 0.2:
                    scheduler.set_pause_state(states.UNPAUSED)
            elif self.rng.random() < case.pauses:
                scheduler.set_pause_state(self.rng.choice([states.PAUSED_NEW, states.PAUSED_ALL]))

    def _paused(self) -> bool:
        return bool(self.scheduler.pause_state != self.api.PauseState.UNPAUSED)

    def _abort(self) -> None:
        if self.case.aborts and self.rng.random() < self.case.aborts:
            live = sorted(self.scheduler.requests)
            everybody = self.rng.random() < 0.03
            gone = live if everybody else [self.rng.choice(live)] if live else []
            self.scheduler.finish_requests(None if everybody else gone, self.api.RequestStatus.FINISHED_ABORTED)
            self.aborted.update(gone)

    # -- what the engine core does ---------------------------------------------------------------------------------

    def _step(self) -> None:
        if self.scheduler.has_requests() or self._paused():
            asked = self.scheduler.schedule()
            self._check_asked(asked)
            self.flying.appendleft((asked, self.runner.run(asked)))
            if len(self.flying) < (2 if self.case.ahead else 1) and (
                asked.num_scheduled_tokens or self.scheduler.has_requests()
            ):
                return
        if self.flying:
            self._land(*self.flying.pop())

    def _land(self, asked: Any, tokens: list[list[int]]) -> None:
        """A step has ended."""
        ids = list(asked.num_scheduled_tokens)
        self.clock.now += cost(asked)
        self.idle = 0 if ids or self._paused() else self.idle + 1
        if not ids:
            self.clock.now += IDLE * (1 + self.idle)
        if self.idle > PATIENCE:
            raise Stuck(f"{sorted(self.scheduler.requests)} wait")
        self._abort()  # while it ran
        answer = self.api.ModelRunnerOutput(ids, {id: at for at, id in enumerate(ids)}, [list(one) for one in tokens])
        for batch in self.scheduler.update_from_output(asked, answer).values():
            for output in batch.outputs:
                self.got.setdefault(output.request_id, []).extend(output.new_token_ids)
                if output.finish_reason is not None:
                    assert output.request_id not in self.ended, f"{output.request_id} ends twice"
                    self.ended[output.request_id] = self.clock.now
                    self.reasons[output.request_id] = str(output.finish_reason)
        if self.case.drafts and not self.case.ahead and ids:
            self.scheduler.update_draft_token_ids(self.api.DraftTokenIds(ids, self.runner.proposed(ids)))

    def _check_asked(self, asked: Any) -> None:
        case, scheduler = self.case, self.scheduler
        self.schedule.append(dict(asked.num_scheduled_tokens))
        self.given.append(
            [*(new.block_ids for new in asked.scheduled_new_reqs), *asked.scheduled_cached_reqs.new_block_ids]
        )
        self.preempted.update(asked.preempted_req_ids or ())
        if case.ours:
            ours.check_step(scheduler, asked)
        assert len(asked.num_scheduled_tokens) <= case.slots, "more run than there are slots"
        assert len(scheduler.running) <= case.rows, "more are resident than there are rows"
        assert sum(asked.num_scheduled_tokens.values()) <= case.budget, "more tokens than the budget"

    # -- afterwards ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Everybody got what the model says, and vLLM's own state is empty."""
        stops = self.case.stop_tokens
        for id, told in self.told.items():
            made = self.got.get(id, [])
            want = generate(told.prompt, told.most, stops)
            if id in self.aborted:
                assert made == want[: len(made)], f"{id}, aborted, got {made} for {want}"
            elif told.grammar == "broken":
                assert not made and self.reasons[id] == "error", f"{id}, without a grammar, got {made}"
            else:
                assert made == want, f"{id} got {made} for {want}"
                assert self.reasons[id] == ("stop" if want[-1] in stops else "length"), (id, self.reasons[id])
        missing = set(self.told) - set(self.ended) - self.aborted
        assert not missing, f"{sorted(missing)} were not served"
        scheduler = self.scheduler
        pool = scheduler.kv_cache_manager.block_pool
        assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1, "blocks leak"
        assert not scheduler.requests and not scheduler.running and not len(scheduler.waiting), "left behind in vLLM"
        assert not scheduler.kv_holding_waiting and not scheduler.deferred_waiting, "left behind in vLLM"
        assert scheduler.get_num_unfinished_requests() == 0 and not scheduler.has_requests()


def serve(api: Api, case: Case, folder: Path) -> Drive:
    """The case from end to end, checked: under vLLM's own scheduler, or with ours in it."""
    own = api.AsyncScheduler if case.ahead else api.Scheduler
    with ours.watched() as said:
        clock = ours.begin(case, folder, lambda *facts: api.make(case, *facts), own)
        try:
            drive = Drive(api, case, clock)
            drive.run()
            drive.check()
            if case.ours:
                counted = {id: len(drive.got[id]) for id in drive.ended if drive.reasons[id] != "error"}
                drive.counts = ours.end(clock, counted, said)["counts"]
        except BaseException:
            with suppress(Exception):
                clock.scheduler.shutdown()  # closes files
            raise
    return drive
