"""vllm.v1.core.sched.scheduler: the same schedule from the same requests."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

from tests.vllm.standin.blocks import KVCacheBlocks, KVCacheManager
from tests.vllm.standin.interface import PauseState, SchedulerInterface
from tests.vllm.standin.output import (
    DraftTokenIds,
    EngineCoreOutput,
    EngineCoreOutputs,
    SchedulerOutput,
)
from tests.vllm.standin.queue import RequestQueue, SchedulingPolicy, create_request_queue
from tests.vllm.standin.request import Request, RequestStatus, check_stop
from tests.vllm.standin.stats import SchedulerStats
from tests.vllm.standin.step import Step

BLOCKED = (
    RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR,
    RequestStatus.WAITING_FOR_REMOTE_KVS,
    RequestStatus.WAITING_FOR_STREAMING_REQ,
)


class Scheduler(SchedulerInterface):
    def __init__(
        self,
        vllm_config: Any,
        kv_cache_config: Any,
        structured_output_manager: Any,
        block_size: int,
        hash_block_size: int | None = None,
        mm_registry: Any = None,
        include_finished_set: bool = False,
        log_stats: bool = False,
    ) -> None:
        self.vllm_config = vllm_config
        self.scheduler_config = vllm_config.scheduler_config
        self.cache_config = vllm_config.cache_config
        self.lora_config = vllm_config.lora_config
        self.parallel_config = vllm_config.parallel_config
        self.kv_cache_config = kv_cache_config
        self.log_stats = log_stats
        self.structured_output_manager = structured_output_manager
        self.prev_step_scheduled_req_ids: set[str] = set()
        self.max_num_running_reqs = self.scheduler_config.max_num_seqs
        active = self.scheduler_config.max_num_active_seqs
        self.max_num_active_reqs = active if active is not None else self.max_num_running_reqs
        most = self.scheduler_config.max_num_scheduled_tokens
        self.max_num_scheduled_tokens = most if most is not None else self.scheduler_config.max_num_batched_tokens
        self.max_model_len = vllm_config.model_config.max_model_len
        self.num_sampled_tokens_per_step = 1
        self.connector = None
        self.ec_connector = None
        self.block_size = block_size
        self.hash_block_size = hash_block_size or block_size
        self.requests: dict[str, Request] = {}
        self.policy = SchedulingPolicy(self.scheduler_config.policy)
        self.waiting: RequestQueue = create_request_queue(self.policy)
        self.kv_holding_waiting: RequestQueue = create_request_queue(self.policy)
        self.deferred_waiting: set[Request] = set()
        self.running: list[Request] = []
        self.finished_req_ids: set[str] = set()
        self.reset_preempted_req_ids: set[str] = set()
        self.num_waiting_for_streaming_input = 0
        self.grammar_compile_error_reqs: set[str] = set()
        self.num_spec_tokens = vllm_config.num_speculative_tokens
        self.num_lookahead_tokens = vllm_config.num_lookahead_tokens
        self.kv_cache_manager = KVCacheManager(
            kv_cache_config,
            self.max_model_len,
            self.cache_config.enable_prefix_caching,
            self.scheduler_config.watermark,
        )
        self.use_v2_model_runner = vllm_config.use_v2_model_runner
        self.scheduler_reserve_full_isl = self.scheduler_config.scheduler_reserve_full_isl
        self.current_step = 0
        self._pause_state = PauseState.UNPAUSED
        self._inflight_prefills: set[Request] = set()

    # -- a step ----------------------------------------------------------------------------------------------------

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        self.current_step += 1
        step = Step(0 if self._pause_state == PauseState.PAUSED_ALL else self.max_num_scheduled_tokens)
        stamp = time.monotonic()
        self._schedule_running(step, stamp)
        if not step.preempted and self._pause_state != PauseState.PAUSED_ALL:
            self._schedule_waiting(step)
        assert step.budget >= 0 and len(self.running) <= self.max_num_running_reqs
        output = step.output(self)
        if not self.use_v2_model_runner:
            self.prev_step_scheduled_req_ids = set(step.tokens)
        self._update_after_schedule(output)
        return output

    def _schedule_running(self, step: Step, stamp: float) -> None:
        at = 0
        while at < len(self.running) and step.budget > 0:
            request = self.running[at]
            ahead = request.num_output_placeholders
            if (
                ahead > 0 and request.num_computed_tokens + 2 - ahead >= request.num_prompt_tokens + request.max_tokens
            ) or self.current_step < request.next_decode_eligible_step:
                at += 1
                continue
            tokens = request.num_tokens_with_spec + ahead - request.num_computed_tokens
            room = self.max_model_len - request.num_computed_tokens - self.num_sampled_tokens_per_step
            tokens = min(tokens, step.budget, room)
            if tokens == 0:
                at += 1
                continue
            blocks = self._allocate(request, tokens, step, stamp)
            if blocks is None:
                break
            step.running.append(request)
            step.prefills |= request.is_prefill_chunk
            step.take(request, tokens, blocks)
            at += 1
            if request.spec_token_ids:
                drafts = tokens + request.num_computed_tokens - request.num_tokens - request.num_output_placeholders
                if drafts > 0:
                    step.drafts[request.request_id] = request.spec_token_ids[:drafts]
                request.spec_token_ids = []

    def _allocate(self, request: Request, tokens: int, step: Step, stamp: float) -> KVCacheBlocks | None:
        """The last that runs goes, until there is room; None where that is the request itself."""
        while True:
            blocks = self.kv_cache_manager.allocate_slots(
                request, tokens, num_lookahead_tokens=self.num_lookahead_tokens
            )
            if blocks is not None:
                return blocks
            victim = self.running.pop()
            self._preempt_request(victim, stamp)
            step.preempted.append(victim)
            if victim is request:
                return None

    def _schedule_waiting(self, step: Step) -> None:
        skipped: deque[Request] = deque()
        manager = self.kv_cache_manager
        while step.budget > 0:
            queue = self.kv_holding_waiting
            if not queue and self._pause_state == PauseState.UNPAUSED:
                queue = self.waiting
            if not queue or len(self.running) + self.num_waiting_for_streaming_input >= self.max_num_active_reqs:
                break
            request = queue.peek_request()
            stale = request.num_stale_output_tokens and not request.drop_stale_output
            if not self._handle_blocked_waiting_request(request) or stale:
                skipped.appendleft(queue.pop_request())
                self.deferred_waiting.add(request)
                continue
            hit, found, _ = manager.get_computed_blocks(request)
            tokens = request.num_tokens - found
            padded = (
                self.num_spec_tokens > 0
                and tokens == 1
                and not step.prefills
                and bool(step.running or found)
                and found + 2 + self.num_spec_tokens <= self.max_model_len
            )
            if padded:
                tokens = 1 + self.num_spec_tokens
                if tokens > step.budget:
                    break
            tokens = min(tokens, step.budget)
            blocks = manager.allocate_slots(
                request, tokens, num_new_computed_tokens=found, new_computed_blocks=hit,
                num_lookahead_tokens=self.num_lookahead_tokens, full_sequence_must_fit=self.scheduler_reserve_full_isl,
                has_scheduled_reqs=bool(self.running),
            )  # fmt: skip
            if blocks is None:
                break
            queue.pop_request()
            self.deferred_waiting.discard(request)
            self.running.append(request)
            (step.resumed if request.status == RequestStatus.PREEMPTED else step.new).append(request)
            step.take(request, tokens, manager.get_blocks(request.request_id))
            request.status = RequestStatus.RUNNING
            request.num_computed_tokens = found
            if padded:
                step.drafts[request.request_id] = [-1] * self.num_spec_tokens
            if found + tokens < request.num_tokens:
                self._inflight_prefills.add(request)
        if skipped:
            self.waiting.prepend_requests(skipped)

    def _preempt_request(self, request: Request, timestamp: float, drop_stale_output: bool = False) -> None:
        assert request.status == RequestStatus.RUNNING, "Only running requests can be preempted"
        self.kv_cache_manager.free(request)
        self._inflight_prefills.discard(request)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        request.spec_token_ids = []
        request.drop_stale_output = drop_stale_output or (
            request.drop_stale_output and request.num_stale_output_tokens > 0
        )
        request.num_stale_output_tokens = request.num_in_flight_tokens
        request.num_output_placeholders = 0
        request.num_preemptions += 1
        self.waiting.prepend_request(request)
        self.reset_preempted_req_ids.add(request.request_id)

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        for id, tokens in scheduler_output.num_scheduled_tokens.items():
            request = self.requests[id]
            request.num_computed_tokens += tokens
            request.num_in_flight_tokens += tokens
            request.is_prefill_chunk = (
                request.num_computed_tokens < request.num_tokens + request.num_output_placeholders
            )
            if not request.is_prefill_chunk:
                self._inflight_prefills.discard(request)
        self.finished_req_ids = set()
        self.reset_preempted_req_ids = set()

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        if request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR:
            asked = request.structured_output_request
            if asked is None or asked.grammar is None:
                return False
            if isinstance(asked.grammar, Exception):
                self.grammar_compile_error_reqs.add(request.request_id)
                return False
            request.status = RequestStatus.WAITING
        return True

    # -- what came of it -------------------------------------------------------------------------------------------

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: Any
    ) -> dict[int, EngineCoreOutputs]:
        outputs: dict[int, list[EngineCoreOutput]] = defaultdict(list)
        stopped: set[Request] = set()
        for id, scheduled in scheduler_output.num_scheduled_tokens.items():
            request = self.requests.get(id)
            if request is None:
                continue
            request.num_in_flight_tokens -= scheduled
            stale = request.num_stale_output_tokens > 0
            if stale:
                request.num_stale_output_tokens -= scheduled
                assert request.num_stale_output_tokens >= 0
                if request.drop_stale_output:
                    continue
            tokens = model_runner_output.sampled_token_ids[model_runner_output.req_id_to_index[id]]
            drafts = scheduler_output.scheduled_spec_decode_tokens.get(id)
            if drafts and tokens and not stale:
                rejected = len(drafts) - max(len(tokens) - 1, 0)
                if request.num_computed_tokens > 0:
                    request.num_computed_tokens -= rejected
                if request.num_output_placeholders > 0:
                    request.num_output_placeholders -= rejected
            if not tokens:
                continue
            tokens, ended = self._update_request_with_output(request, tokens, is_stale=stale)
            if not self.structured_output_manager.accept_tokens(request, tokens):
                request.status = RequestStatus.FINISHED_ERROR
                ended = True
            if ended:
                stopped.add(request)
                self._free_request(request)
            outputs[request.client_index].append(
                EngineCoreOutput(id, tokens, request.get_finished_reason() if ended else None, request.stop_reason)
            )
        if stopped:
            self.running = [request for request in self.running if request not in stopped]
            self._unqueue(stopped)
        failed, self.grammar_compile_error_reqs = self.grammar_compile_error_reqs, set()
        for request in self.finish_requests(failed, RequestStatus.FINISHED_ERROR) if failed else ():
            outputs[request.client_index].append(
                EngineCoreOutput(request.request_id, [], request.get_finished_reason())
            )
        told = {client: EngineCoreOutputs(some) for client, some in outputs.items()}
        stats = self.make_stats()
        if stats is not None:
            told = told or {0: EngineCoreOutputs()}
            next(iter(told.values())).scheduler_stats = stats
        return told

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        for count, token in enumerate(new_token_ids, 1):
            request.append_output_token_ids(token)
            if check_stop(request, self.max_model_len):
                del new_token_ids[count:]
                return new_token_ids, True
        return new_token_ids, False

    def update_draft_token_ids(self, draft_token_ids: DraftTokenIds) -> None:
        for id, drafts in zip(draft_token_ids.req_ids, draft_token_ids.draft_token_ids, strict=True):
            request = self.requests.get(id)
            if request is not None:
                fits = self.structured_output_manager.validate_tokens
                request.spec_token_ids = [] if request.is_prefill_chunk else fits(request, drafts)

    # -- requests come and go --------------------------------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        existing = self.requests.get(request.request_id)
        if existing is not None:
            assert existing.resumable, "duplicate request id"
            return  # more of a stream
        if request.status in BLOCKED:
            self.deferred_waiting.add(request)
        self.waiting.add_request(request)
        self.requests[request.request_id] = request

    def finish_requests(self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus) -> list[Request]:
        assert RequestStatus.is_finished(finished_status)
        if isinstance(request_ids, str):
            request_ids = (request_ids,)
        ids = list(self.requests) if request_ids is None else set(request_ids)
        gone = [self.requests[id] for id in ids if id in self.requests]
        running = {request for request in gone if request.status == RequestStatus.RUNNING}
        if running:
            self.running = [request for request in self.running if request not in running]
        self._unqueue([request for request in gone if request not in running])
        for request in gone:
            request.status = finished_status
            self._free_request(request)
        return gone

    def _unqueue(self, requests: Iterable[Request]) -> None:
        some = list(requests)
        if some:
            self.waiting.remove_requests(some)
            self.kv_holding_waiting.remove_requests(some)
            self.deferred_waiting.difference_update(some)

    def _free_request(self, request: Request, delay_free_blocks: bool = False) -> tuple[None, None]:
        assert request.is_finished()
        self._inflight_prefills.discard(request)
        self.finished_req_ids.add(request.request_id)
        self.kv_cache_manager.free(request)
        del self.requests[request.request_id]
        return None, None

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        if reset_running_requests:
            while self.running:
                self._preempt_request(self.running.pop(), time.monotonic(), drop_stale_output=True)
            self.prev_step_scheduled_req_ids.clear()
        reset = self.kv_cache_manager.reset_prefix_cache()
        if reset_running_requests and not reset:
            raise RuntimeError("Failed to reset KV cache even when all the running requests are preempted")
        return reset

    # -- what others ask -------------------------------------------------------------------------------------------

    @property
    def pause_state(self) -> PauseState:
        return self._pause_state

    def set_pause_state(self, pause_state: PauseState) -> None:
        self._pause_state = pause_state

    def get_request_counts(self) -> tuple[int, int]:
        return len(self.running), len(self.waiting) + len(self.kv_holding_waiting)

    def get_kv_cache_usage(self) -> float:
        return self.kv_cache_manager.usage

    def get_num_unfinished_requests(self) -> int:
        if self._pause_state == PauseState.PAUSED_ALL:
            return 0
        running, waiting = self.get_request_counts()
        if self._pause_state == PauseState.PAUSED_NEW:
            waiting = len(self.kv_holding_waiting)
        return running + waiting

    def has_finished_requests(self) -> bool:
        return bool(self.finished_req_ids)

    def has_requests(self) -> bool:
        return self.has_unfinished_requests() or self.has_finished_requests()

    def make_stats(self, spec_decoding_stats: Any = None, kv_connector_stats: Any = None) -> SchedulerStats | None:
        if not self.log_stats:
            return None
        skipped = len(self.deferred_waiting)
        running, waiting = self.get_request_counts()
        return SchedulerStats(running, waiting - skipped, skipped, self.get_kv_cache_usage())

    def shutdown(self) -> None:
        pass
