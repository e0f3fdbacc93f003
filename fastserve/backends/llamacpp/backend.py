"""LlamaCppBackend: one llama_decode an iteration, with all members of the plan in it."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from fastserve.backends.llamacpp.context import Context
from fastserve.backends.llamacpp.library import MOST_SEQUENCES, library
from fastserve.backends.llamacpp.measure import bytes_per_token, copy_times, measure
from fastserve.backends.llamacpp.model import Model, load_model
from fastserve.backends.llamacpp.residents import Residents
from fastserve.backends.llamacpp.speculating import Speculating, drafting_for
from fastserve.engine.backend import CopyTime, Step, Traits, Wanted
from fastserve.engine.host_memory import size_pools
from fastserve.engine.model_info import ModelInfo
from fastserve.engine.params import SamplingParams
from fastserve.engine.sampler.jobs import NONE, Jobs
from fastserve.hardware import Hardware, Memory
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from fastserve.speculation.spec import OFF, parse


class LlamaCppBackend:
    """One iteration a run. model: opened, or what load_model() takes. wanted: its pools. hardware: its times (None:
    they are measured when hardware() is asked, some seconds).

    Its cache is one pool of tokens in which any cell takes any token, so blocks are for the ledger alone. Copies to
    and from the host are made between two steps; none runs beside one.
    """

    traits = Traits(swaps=True, exact="no", constrains=True)
    load = staticmethod(load_model)

    def __init__(
        self, model: Model | str | Path, wanted: Wanted | None = None, hardware: Hardware | None = None, *,
        speculate: str = OFF,
    ) -> None:  # fmt: skip
        asked = parse(speculate)
        if not isinstance(model, Model):
            model = load_model(model)
        wanted = wanted or Wanted()
        if wanted.max_batch > MOST_SEQUENCES:
            raise ValueError(
                f"max_batch={wanted.max_batch}: llama.cpp holds at most {MOST_SEQUENCES} sequences, so give no more"
            )
        block = wanted.block_tokens
        drafting = None if asked is None else drafting_for(asked, model, wanted)  # before pools take the rest
        token_bytes = bytes_per_token(model)
        wanted = wanted.in_tokens(token_bytes).reaching(0 if asked is None else asked.k)
        pools = size_pools(
            token_bytes * block, block_tokens=block, kv_tokens=wanted.kv_tokens,
            host_tokens=wanted.host_tokens if wanted.swaps else 0,
        )  # fmt: skip
        self.model = model
        self.memory = Memory(block, pools.blocks * block, pools.host_blocks * block * token_bytes, token_bytes)
        self.max_batch = wanted.max_batch
        rows = min(MOST_SEQUENCES, 4 * wanted.max_batch)
        outputs = wanted.max_batch * (1 if asked is None else 1 + asked.k)
        self.context = Context(model, pools.blocks * block, rows, outputs)
        self.residents = Residents(self.context)
        self.jobs = Jobs(model.eos_ids, model.suppress)
        self.speculating = None if drafting is None else Speculating(drafting, self.jobs.states, self.context)
        if asked is not None:
            self.traits = replace(self.traits, uneven=True, lookahead=asked.k)
        device = "cpu" if model.gpu_layers == 0 else f"gpu ({model.gpu_layers} layers)"
        self.info = ModelInfo(
            model.name, model.tokenizer, model.max_model_len, model.vocab_size, model.eos_ids, model.defaults,
            model.parameters, device, model.weights, "llamacpp", frozenset(model.suppress),
        )  # fmt: skip
        self.settings: dict[str, Any] = {
            "dtype": model.weights, "kv_dtype": model.cache_type, "device": device, "threads": model.threads,
            "gpu_layers": model.gpu_layers, "file": str(model.file), "pools": pools.why, "speculate": str(asked or OFF),
            "lora": [f"{one.file}:{one.scale:g}" for one in model.adapters],
        }  # fmt: skip
        self._hardware: Hardware | None = None
        self._closed = False
        if hardware is not None:
            self.use(hardware, "as given")

    # -- its times -------------------------------------------------------------------------------------------------

    def hardware(self) -> Hardware:
        if self._hardware is None:
            self.use(measure(self.context, self.memory, self.max_batch), "measured at load")
        assert self._hardware is not None
        return self._hardware

    def use(self, hardware: Hardware, origin: str) -> None:
        self._hardware = replace(hardware, memory=self.memory)
        if self.speculating is not None:
            self.speculating.drafting.priced(hardware.latency, self.max_batch)
        self.settings["times"] = origin

    @property
    def facts(self) -> dict[str, Any]:
        model = self.model
        return {
            "file": [model.facts().get("general.name", ""), model.parameters, model.bytes, model.weights],
            "kv_dtype": model.cache_type,
            "device": [self.info.device, platform.processor() or platform.machine()],
            "threads": model.threads,
            "llama.cpp": library().llama_version().decode(),
            "lora": self.settings["lora"],
        }

    def copy_times(self) -> list[CopyTime]:
        return copy_times(self.context, self.memory)

    # -- its jobs --------------------------------------------------------------------------------------------------

    def admit(self, job: Job, prompt: list[int], params: SamplingParams, seed: int) -> None:
        self.jobs.admit(job, prompt, params, seed)

    def forget(self, job: Job) -> None:
        self.jobs.forget(job)
        self.residents.forget(job)
        if self.speculating is not None:
            self.speculating.drafting.forget(job)

    def reset(self) -> None:
        self.residents.reset()
        if self.speculating is not None:
            self.speculating.drafting.reset()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.residents.reset()
            self.jobs.clear()
            self.context.free()
            if self.speculating is not None:
                self.speculating.drafting.close()

    def held(self) -> dict[str, int]:
        """What it holds of its jobs: nothing, when all have departed."""
        it = self.residents
        return {"jobs": len(self.jobs), "sequences": len(it.rows), "aside": len(it.aside), "host states": len(it.away),
                "drafts": 0 if self.speculating is None else self.speculating.drafting.held()}  # fmt: skip

    def run(self, plan: Plan) -> Step:
        stall = self.residents.follow(plan)
        began = perf_counter_ns()
        drafts = NONE if self.speculating is None else self.speculating.guesses(plan)
        guessed = perf_counter_ns()
        parts = [*self.jobs.decodes(plan, drafts), *self.jobs.chunks(plan)]
        rows = self.residents.rows
        logits = self.context.decode([(rows[part.job], part) for part in parts])
        model_ns = perf_counter_ns() - began
        results = self.jobs.draw(logits, [part.job for part in parts if part.yields], drafts)
        step = Step(results, stall, self.residents.landed(), None, model_ns)
        if self.speculating is not None:
            took = perf_counter_ns() - guessed
            step.drafts = self.speculating.verified(plan, drafts, rows, results, took)
        return step
