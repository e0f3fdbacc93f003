"""One step while it is scheduled, and what the workers are told of it."""

from __future__ import annotations

from typing import Any

from tests.vllm.standin.blocks import KVCacheBlocks
from tests.vllm.standin.output import CachedRequestData, NewRequestData, SchedulerOutput
from tests.vllm.standin.request import Request


class Step:
    """What one call of schedule() collects."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.new: list[Request] = []
        self.resumed: list[Request] = []
        self.running: list[Request] = []
        self.preempted: list[Request] = []
        self.tokens: dict[str, int] = {}
        self.drafts: dict[str, list[int]] = {}
        self.blocks: dict[str, KVCacheBlocks] = {}
        self.prefills = False

    def take(self, request: Request, tokens: int, blocks: KVCacheBlocks) -> None:
        self.tokens[request.request_id] = tokens
        self.blocks[request.request_id] = blocks
        self.budget -= tokens

    def output(self, scheduler: Any) -> SchedulerOutput:
        v2 = scheduler.use_v2_model_runner
        if v2:
            self.new += self.resumed
            self.resumed = []
        new = [
            NewRequestData(
                request.request_id, request.prompt_token_ids, request.sampling_params,
                self.blocks[request.request_id].get_block_ids() or (), request.num_computed_tokens,
                request._all_token_ids if v2 else None,
            )
            for request in self.new
        ]  # fmt: skip
        again = [*self.running, *self.resumed]
        late = [request for request in again if request.request_id not in scheduler.prev_step_scheduled_req_ids]
        cached = CachedRequestData(
            [request.request_id for request in again],
            {request.request_id for request in self.resumed},
            [],
            {} if v2 else {one.request_id: list(one.all_token_ids) for one in late},
            [self.blocks[request.request_id].get_block_ids(allow_none=True) for request in again],
            [request.num_computed_tokens for request in again],
            [request.num_output_tokens + request.num_output_placeholders for request in again],
        )
        return SchedulerOutput(
            new, cached, self.tokens, sum(self.tokens.values()), self.drafts, scheduler.finished_req_ids,
            scheduler.reset_preempted_req_ids, num_spec_tokens_to_schedule=scheduler.num_spec_tokens,
        )  # fmt: skip
