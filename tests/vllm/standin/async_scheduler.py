"""vllm.v1.core.sched.async_scheduler: the next step is scheduled while one is in flight."""

from __future__ import annotations

from typing import Any

from tests.vllm.standin.output import SchedulerOutput
from tests.vllm.standin.request import Request, RequestStatus
from tests.vllm.standin.scheduler import Scheduler


class AsyncScheduler(Scheduler):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._spec_token_placeholders = [-1] * self.num_spec_tokens
        self.decode_stagger = self.parallel_config.pipeline_parallel_size

    def _update_after_schedule(self, scheduler_output: SchedulerOutput) -> None:
        super()._update_after_schedule(scheduler_output)
        self._spec_token_placeholders = [-1] * scheduler_output.num_spec_tokens_to_schedule
        for id in scheduler_output.num_scheduled_tokens:
            request = self.requests[id]
            if request.is_prefill_chunk:
                continue
            drafts = len(scheduler_output.scheduled_spec_decode_tokens.get(id, ()))
            request.num_output_placeholders += self.num_sampled_tokens_per_step + drafts
            request.spec_token_ids = self._spec_token_placeholders
            if self.use_v2_model_runner:
                request.next_decode_eligible_step = self.current_step + self.decode_stagger

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        status = request.status
        new_token_ids, stopped = super()._update_request_with_output(request, new_token_ids)
        if not is_stale:
            request.num_output_placeholders -= len(new_token_ids)
            assert request.num_output_placeholders >= 0
        if status == RequestStatus.RUNNING:
            self.kv_cache_manager.cache_blocks(request, request.num_computed_tokens - request.num_output_placeholders)
        return new_token_ids, stopped
