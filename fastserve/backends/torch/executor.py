"""TorchExecutor: a Plan becomes one packed step of a model, and its logits become tokens."""

from __future__ import annotations

import logging
from time import perf_counter_ns

import torch

from fastserve.backends.torch.block_manager import BlockManager
from fastserve.backends.torch.input_batch import Rows, pack
from fastserve.backends.torch.kv_cache import Cache
from fastserve.backends.torch.model import Model
from fastserve.backends.torch.sampler import Sampled, Sampler, SamplingError
from fastserve.backends.torch.sampling_state import SamplingState
from fastserve.backends.torch.step import Step
from fastserve.engine.request import Piece, Request
from fastserve.sched.job import Job
from fastserve.sched.plan import Outcome, Plan

log = logging.getLogger("fastserve")


class TorchExecutor:
    """See LiveExecutor. One iteration a run; the time that it took outside copies is for the loop to say."""

    def __init__(self, model: Model, cache: Cache) -> None:
        self.model = model
        self.cache = cache
        self.blocks = BlockManager(cache.blocks, cache.host_blocks, cache.block_tokens, cache)
        self.sampler = Sampler(model.suppress)
        self.requests: dict[Job, Request] = {}
        self.produced: list[tuple[Request, Piece]] = []
        self.model_ns = 0
        self.waited_ns = 0

    def admit(self, job: Job, request: Request) -> None:
        request.sampling = SamplingState(
            request.params, seed=request.seed, prompt=request.prompt, eos_ids=self.model.eos_ids
        )
        self.requests[job] = request

    def forget(self, job: Job) -> None:
        self.requests.pop(job, None)
        self.blocks.forget(job)

    def reset(self) -> None:
        self.blocks.reset()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        self.blocks.reset()
        self.requests.clear()
        self.cache.close()

    def run(self, plan: Plan) -> Outcome:
        stall = self.blocks.follow(plan)
        self.waited_ns += stall
        try:
            speakers, drawn = self._step(plan)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise
        landed = self.blocks.landed()  # it may raise what a copy raised; then no request has accepted a token
        self.produced = [(request, self._speak(request, token)) for request, token in zip(speakers, drawn, strict=True)]
        ended = [request.job for request, piece in self.produced if piece.finish_reason]
        return Outcome(1, 0, stall, ended, landed)

    @torch.inference_mode()
    def _step(self, plan: Plan) -> tuple[list[Request], list[Sampled | SamplingError]]:
        """The requests that get a token, in the order of their logits, and what was drawn for them."""
        decodes, chunks, speakers = self._rows(plan)
        step = pack(decodes, chunks, self.cache.block_tokens)
        states = [request.sampling for request in speakers]
        logits = self._forward(step)
        try:
            return speakers, self.sampler.sample(logits, states)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # one request's, but whose?
            log.warning("sampling failed (%r): each request of this step is drawn for alone", error)
        logits = self._forward(step)  # the same numbers: the sampler has written into the first ones
        return speakers, [self._draw_alone(row, state) for row, state in zip(logits.split(1), states, strict=True)]

    def _forward(self, step: Step) -> torch.Tensor:
        began = perf_counter_ns()
        logits = self.model.forward(step, self.cache)
        if logits.is_cuda:
            torch.cuda.synchronize(logits.device)
        self.model_ns += perf_counter_ns() - began
        return logits

    def _draw_alone(self, row: torch.Tensor, state: SamplingState) -> Sampled | SamplingError:
        try:
            return self.sampler.sample(row, [state])[0]
        except Exception as error:  # a shortage of memory too: the rows before have moved on, the step must stand
            return SamplingError(f"{type(error).__name__}: {error}")

    def _speak(self, request: Request, drawn: Sampled | SamplingError) -> Piece:
        if isinstance(drawn, SamplingError):
            return request.end("error", str(drawn))
        try:
            top = None if drawn.top is None else dict(drawn.top)
            return request.accept(drawn.token, self.model.eos_ids, drawn.logprob, top)
        except Exception as error:
            return request.end("error", f"{type(error).__name__}: {error}")

    def _rows(self, plan: Plan) -> tuple[list[Rows], list[Rows], list[Request]]:
        """Who decodes, who prefills how much, and whose logits come in which order."""
        prefills = plan.prefill
        decodes = []
        speakers = []
        for job, _ in plan.work[len(prefills) :]:
            request = self.requests[job]
            at = job.prompt + job.generated - 1
            decodes.append(Rows(request.tokens[-1:], at, self.blocks.table(job), True))
            speakers.append(request)
        chunks = []
        for job, more in prefills:
            request = self.requests[job]
            first, end = job.prefilled, job.prefilled + more
            known = request.prompt if end <= job.prompt else request.prompt + request.tokens
            completes = end == job.prompt + job.generated
            chunks.append(Rows(known[first:end], first, self.blocks.table(job), completes))
            if completes:
                speakers.append(request)
        return decodes, chunks, speakers
