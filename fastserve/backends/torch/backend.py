"""TorchBackend: runs a Plan as one packed step of a transformers model, and samples tokens from its logits."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import torch

from fastserve.backends.torch.block_manager import BlockManager
from fastserve.backends.torch.draft_model import drafting_for
from fastserve.backends.torch.input_batch import InputBatch, Rows, pack
from fastserve.backends.torch.kv_cache import Cache
from fastserve.backends.torch.lora.adapters import Ready
from fastserve.backends.torch.memory import ran_out, size_pools
from fastserve.backends.torch.model import Model, load_model
from fastserve.backends.torch.platform import device_name
from fastserve.backends.torch.sampler import Sampler
from fastserve.backends.torch.warmup import copy_times, measure, verify_times
from fastserve.engine.adapters import Adapter
from fastserve.engine.backend import CopyTime, Failed, Result, Step, Token, Traits, VerifyTime, Wanted
from fastserve.engine.model_info import ModelInfo
from fastserve.engine.params import SamplingParams
from fastserve.engine.sampler.drafts import Drawn, Speaker, draw
from fastserve.engine.sampler.jobs import JobState
from fastserve.engine.sampler.results import SamplingError
from fastserve.engine.sampler.state import SamplingState
from fastserve.hardware import Hardware, Memory
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from fastserve.sched.units import Ids
from fastserve.speculation.drafting import Drafting
from fastserve.speculation.spec import OFF, parse

log = logging.getLogger("fastserve")

NONE: Mapping[Job, Sequence[int]] = {}
"""No job has drafts; never written."""


class TorchBackend:
    """One iteration a run. model: loaded, or what load_model() takes. wanted: its pools. hardware: its times (None:
    they are measured when hardware() is asked, about a second). gpu_memory_utilization: share of a GPU's memory for
    weights and KV.
    """

    traits = Traits(swaps=True, exact="always", constrains=True, shares=True, adapts=True)
    load = staticmethod(load_model)

    def __init__(
        self,
        model: Model | str | Path,
        wanted: Wanted | None = None,
        hardware: Hardware | None = None,
        *,
        gpu_memory_utilization: float = 0.9,
        speculate: str = OFF,
    ) -> None:
        asked = parse(speculate)
        if isinstance(model, str | Path):
            model = load_model(model)
        wanted = wanted or Wanted()
        block = wanted.block_tokens
        wanted = wanted.in_tokens(model.block_bytes(1)).reaching(0 if asked is None else asked.k)
        block_bytes = model.block_bytes(block)
        self.drafting = None if asked is None else drafting_for(asked, model, wanted)  # before pools take the rest
        pools = size_pools(
            block_bytes, model.device, block_tokens=block, kv_tokens=wanted.kv_tokens,
            host_tokens=wanted.host_tokens if wanted.swaps else 0, host_prefix_tokens=wanted.host_prefix_tokens,
            gpu_memory_utilization=gpu_memory_utilization,
        )  # fmt: skip
        self.model = model
        if model.device.type != "cpu":  # matrix products whose kernels are chosen by the number of rows
            self.traits = replace(self.traits, exact="same-composition")
        if asked is not None:
            self.traits = replace(self.traits, uneven=True, lookahead=asked.k)
            if model.native is None:  # PyTorch's products, too: a row that verifies may differ from a decode
                self.traits = replace(self.traits, exact="same-composition")
        self.cache = cache = Cache(
            model.layers, model.kv_heads, model.head_dim, pools.blocks, pools.host_blocks + pools.prefix_blocks, block,
            model.dtype, model.device,
        )  # fmt: skip
        self.memory = Memory(block, pools.blocks * block, pools.host_blocks * block_bytes, block_bytes // block)
        self.max_batch = wanted.max_batch
        self.blocks = BlockManager(cache.blocks, cache.host_blocks, cache.block_tokens, cache, wanted.unit_tokens)
        self.sampler = Sampler(model.suppress)
        self.states: dict[Job, JobState] = {}
        self.adapted: dict[Job, tuple[Adapter, int]] = {}  # of jobs with an adapter: that, and its slot
        self.info = ModelInfo(
            model.name, model.tokenizer, model.max_model_len, model.vocab_size, model.eos_ids, model.defaults,
            model.parameters, device_name(model.device), str(model.dtype).removeprefix("torch."), "torch",
            frozenset(model.suppress),
        )  # fmt: skip
        self.settings: dict[str, Any] = {
            "dtype": self.info.dtype, "device": self.info.device, "threads": torch.get_num_threads(),
            "native": model.native is not None, "step_bytes": model.step_bytes,
            "gpu_memory_utilization": gpu_memory_utilization, "pools": pools.why, "speculate": str(asked or OFF),
            "lora": [f"{one.name}={one.path}" for one in model.adapters.loaded.values()],
        }  # fmt: skip
        self._hardware: Hardware | None = None
        self._model_ns = 0  # of the current step
        if hardware is not None:
            self.use(hardware, "as given")

    # -- its times -------------------------------------------------------------------------------------------------

    def hardware(self) -> Hardware:
        if self._hardware is None:
            self.use(measure(self.model, self.cache, self.memory, self.max_batch), "measured at load")
        assert self._hardware is not None
        return self._hardware

    def use(self, hardware: Hardware, origin: str) -> None:
        self._hardware = replace(hardware, memory=self.memory)
        if self.drafting is not None:
            self.drafting.priced(hardware.latency, self.max_batch)
        self.settings["times"] = origin

    @property
    def facts(self) -> dict[str, Any]:
        model = self.model
        device = platform.processor() or platform.machine()
        if model.device.type == "cuda":
            device = torch.cuda.get_device_name(model.device)
        config: dict[str, Any] = model.config.to_diff_dict()
        stored = {} if model.native is None else {"step_bytes": model.step_bytes}
        return stored | {
            "config": {name: config[name] for name in config if name not in ("transformers_version", "_name_or_path")},
            "dtype": str(model.dtype),
            "device": [model.device.type, device],
            "threads": torch.get_num_threads(),
            "native": model.native is not None,
        }

    def copy_times(self) -> list[CopyTime]:
        return copy_times(self.cache)

    def verify_times(self) -> list[VerifyTime]:
        return verify_times(self.model, self.cache, self.max_batch)

    # -- its jobs --------------------------------------------------------------------------------------------------

    def admit(
        self, job: Job, prompt: list[int], params: SamplingParams, seed: int, adapter: Adapter | None = None
    ) -> None:
        if adapter is not None:
            self.adapted[job] = adapter, self.model.adapters.take(adapter)
        sampling = SamplingState(params, seed=seed, prompt=prompt, eos_ids=self.model.eos_ids)
        self.states[job] = JobState(prompt, [], sampling)

    def answer(self, job: Job, ids: Ids) -> None:
        self.blocks.answer(job, ids)

    def forget(self, job: Job) -> None:
        self.states.pop(job, None)
        if job in self.adapted:
            self.model.adapters.give(self.adapted.pop(job)[0])
        self.blocks.forget(job)
        if self.drafting is not None:
            self.drafting.forget(job)

    def reset(self) -> None:
        self.blocks.reset()
        if self.drafting is not None:
            self.drafting.reset()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        self.blocks.reset()
        self.states.clear()
        for adapter, _ in self.adapted.values():
            self.model.adapters.give(adapter)
        self.adapted.clear()
        self.cache.free()
        if self.drafting is not None:
            self.drafting.close()

    # -- its adapters ----------------------------------------------------------------------------------------------

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        return self.model.adapters.loaded

    def read_adapter(self, name: str, path: str) -> Ready:
        return self.model.adapters.read(name, path)

    def place_adapter(self, ready: Ready) -> Adapter:
        return self.model.adapters.place(ready)

    def drop_adapter(self, name: str) -> None:
        self.model.adapters.drop(name)

    # -- its steps -------------------------------------------------------------------------------------------------

    def held(self) -> dict[str, int]:
        """What it holds of its jobs: nothing, when all have departed and no copy is under way."""
        device, host = self.blocks.device, self.blocks.host
        return {"jobs": len(self.states), "adapted jobs": len(self.adapted),
                "device blocks": device.size - len(device.free) - self.blocks.idle(),
                "host blocks": host.size - len(host.free) - self.blocks.remembered(),
                "drafts": 0 if self.drafting is None else self.drafting.held()}  # fmt: skip

    def run(self, plan: Plan) -> Step:
        stall = self.blocks.follow(plan)
        self._model_ns = 0
        try:
            drafts = NONE if self.drafting is None else self._guesses(plan, self.drafting)
            began = perf_counter_ns()
            drawn = self._step(plan, drafts)
        except RuntimeError as error:
            if ran_out(error):
                raise MemoryError(str(error)) from error
            raise
        took = perf_counter_ns() - began
        self.blocks.computed(plan)
        landed = self.blocks.landed()  # it may raise what a copy raised; then no job has got its token
        results = [(job, self._say(job, tokens)) for job, tokens in drawn]
        step = Step(results, stall, landed, None, self._model_ns)
        if self.drafting is not None:
            said = dict(results)
            step.drafts = [(job, len(guessed), _right(said[job])) for job, guessed in drafts.items()]
            self.drafting.done(plan, step.drafts, took)
        return step

    def _say(self, job: Job, drawn: Drawn) -> Result:
        if isinstance(drawn, SamplingError):
            return Failed(str(drawn))
        self.states[job].tokens.extend([one.token for one in drawn])
        return [Token(one.token, one.logprob, None if one.top is None else dict(one.top)) for one in drawn]

    def _guesses(self, plan: Plan, drafting: Drafting) -> Mapping[Job, Sequence[int]]:
        """The drafts that are worth verifying, with room for their KV."""
        began = perf_counter_ns()
        drafts = drafting.guesses(plan, self.states)
        for job, guessed in drafts.items():
            self.blocks.reach(job, len(guessed))
        self._model_ns += perf_counter_ns() - began
        return drafts

    @torch.inference_mode()
    def _step(self, plan: Plan, drafts: Mapping[Job, Sequence[int]]) -> list[tuple[Job, Drawn]]:
        """The jobs that get tokens, in the order of their logits, and what was drawn for them."""
        decodes, chunks, jobs, speakers = self._rows(plan, drafts)
        step = pack(decodes, chunks, self.cache.block_tokens, bool(self.adapted))
        logits = self._forward(step)
        try:
            drawn = draw(self.sampler, logits, speakers)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # one request's, but whose?
            log.warning("sampling failed (%r): each request of this step is drawn for alone", error)
            logits = self._forward(step)  # the same numbers: the sampler has written into the first ones
            drawn = [self._draw_alone(logits[row : row + 1], state) for state, row, _ in speakers]
        return list(zip(jobs, drawn, strict=True))

    def _forward(self, step: InputBatch) -> torch.Tensor:
        began = perf_counter_ns()
        logits = self.model.forward(step, self.cache)
        if logits.is_cuda:
            torch.cuda.synchronize(logits.device)
        self._model_ns += perf_counter_ns() - began
        return logits

    def _draw_alone(self, row: torch.Tensor, state: SamplingState) -> Drawn:
        try:
            one = self.sampler.sample(row, [state])[0]
        except Exception as error:  # a shortage of memory too: the rows before have moved on, the step must stand
            return SamplingError(f"{type(error).__name__}: {error}")
        return one if isinstance(one, SamplingError) else [one]

    def _rows(
        self, plan: Plan, drafts: Mapping[Job, Sequence[int]]
    ) -> tuple[list[Rows], list[Rows], list[Job], list[Speaker]]:
        """Who decodes, who prefills how much, and whose logits come in which order."""
        prefills = plan.prefill
        decodes = []
        jobs = []
        speakers = []
        row = 0
        for job, _ in plan.work[len(prefills) :]:
            at = job.prompt + job.generated - 1
            state = self.states[job]
            guessed = drafts.get(job, ())
            decodes.append(Rows([*state.tokens[-1:], *guessed], at, self.blocks.table(job), True))
            jobs.append(job)
            speakers.append(Speaker(state.sampling, row, guessed))
            row += 1 + len(guessed)
        chunks = []
        for job, more in prefills:
            state = self.states[job]
            first = plan.first(job)
            end = first + more
            known = state.prompt if end <= job.prompt else state.prompt + state.tokens
            whole = plan.completes(job, more)
            chunks.append(Rows(known[first:end], first, self.blocks.table(job), whole))
            if whole:
                jobs.append(job)
                speakers.append(Speaker(state.sampling, row))
                row += 1
        if self.adapted:
            chunks = self._adapters(prefills, chunks)
            decodes = self._adapters(plan.work[len(prefills) :], decodes)
        return decodes, chunks, jobs, speakers

    def _adapters(self, work: Sequence[tuple[Job, int]], rows: list[Rows]) -> list[Rows]:
        """The rows of these jobs with the slots of their adapters."""
        found = []
        for (job, _), one in zip(work, rows, strict=True):
            found.append(one._replace(adapter=self.adapted[job][1]) if job in self.adapted else one)
        return found


def _right(said: Result) -> int:
    """Drafts that were right: the last token stands behind them."""
    return 0 if isinstance(said, Failed) else len(said) - 1
