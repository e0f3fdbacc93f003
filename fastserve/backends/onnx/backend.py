"""OnnxBackend: runs a Plan as calls of an exported graph, and samples tokens from its logits."""

from __future__ import annotations

import platform
from dataclasses import replace
from os import PathLike
from time import perf_counter_ns
from typing import Any, Final

from fastserve.backends.onnx.folder import OWN
from fastserve.backends.onnx.graph import Chunk
from fastserve.backends.onnx.measure import copy_times, measure
from fastserve.backends.onnx.model import Model, load_model
from fastserve.backends.onnx.session import runtime
from fastserve.backends.onnx.slots import Slots
from fastserve.engine.backend import CopyTime, Exact, Step, Traits, Wanted
from fastserve.engine.host_memory import size_pools
from fastserve.engine.model_info import ModelInfo
from fastserve.engine.params import SamplingParams
from fastserve.engine.sampler.jobs import Jobs
from fastserve.hardware import Hardware, Memory
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan

EXACT: Final[dict[str, Exact]] = {"none": "always", "int8": "same-composition", "int4": "no"}
"""By the weights, of our own exports. In float32 and 8 bits a row is computed from itself alone, to the bit, whoever is
beside it, and a prompt may come in chunks of any size; but attention rounds a step of one token otherwise than a chunk.
So a recompute, which puts into a chunk what was decoded, may change last bits: in float32 some 1e-6 of a logit, while 8
bits round them up or down once more.
"""


class OnnxBackend:
    """One iteration a run. model: loaded, or what load_model() takes. wanted: its pools. hardware: its times (None:
    they are measured when hardware() is asked, about a second).
    """

    traits = Traits(swaps=True, exact="always", constrains=True)
    load = staticmethod(load_model)

    def __init__(
        self, model: Model | str | PathLike[str], wanted: Wanted | None = None, hardware: Hardware | None = None
    ) -> None:
        if not isinstance(model, Model):
            model = load_model(model)
        wanted = (wanted or Wanted()).in_tokens(model.token_bytes)
        block = wanted.block_tokens
        pools = size_pools(
            model.token_bytes * block, block_tokens=block, kv_tokens=wanted.kv_tokens,
            host_tokens=wanted.host_tokens if wanted.swaps else 0,
        )  # fmt: skip
        self.model = model
        exported = model.exported
        self.traits = replace(self.traits, exact=EXACT[exported.quantize] if exported.kind == OWN else "no")
        self.memory = Memory(block, pools.blocks * block, pools.host_blocks * block * model.token_bytes,
                             model.token_bytes)  # fmt: skip
        self.max_batch = wanted.max_batch
        self.graph = model.graph()
        self.slots = Slots(self.graph.arrays, pools.blocks * block)
        self.jobs = Jobs(exported.eos_ids, exported.suppress)
        self.info = ModelInfo(
            exported.name, model.tokenizer, model.max_model_len, exported.vocab_size, exported.eos_ids,
            exported.defaults, exported.parameters, "cpu", model.dtype, "onnx", frozenset(exported.suppress),
        )  # fmt: skip
        self.settings: dict[str, Any] = {**model.settings, "dtype": model.dtype, "device": "cpu", "pools": pools.why}
        self._hardware: Hardware | None = None
        if hardware is not None:
            self.use(hardware, "as given")

    # -- its times -------------------------------------------------------------------------------------------------

    def hardware(self) -> Hardware:
        if self._hardware is None:
            self.use(measure(self.model, self.graph, self.memory, self.max_batch), "measured at load")
        assert self._hardware is not None
        return self._hardware

    def use(self, hardware: Hardware, origin: str) -> None:
        self._hardware = replace(hardware, memory=self.memory)
        self.settings["times"] = origin

    @property
    def facts(self) -> dict[str, Any]:
        it = self.model.exported
        return {
            "model": [it.kind, dict(it.made_of), it.layers, it.kv_heads, it.head_dim, it.vocab_size, it.parameters],
            "settings": dict(self.model.settings),
            "onnxruntime": runtime().__version__,
            "device": platform.processor() or platform.machine(),
        }

    def copy_times(self) -> list[CopyTime]:
        return copy_times(self.graph.arrays, self.memory)

    # -- its jobs --------------------------------------------------------------------------------------------------

    def admit(self, job: Job, prompt: list[int], params: SamplingParams, seed: int) -> None:
        self.jobs.admit(job, prompt, params, seed)

    def forget(self, job: Job) -> None:
        self.jobs.forget(job)
        self.slots.forget(job)

    def reset(self) -> None:
        self.slots.reset()

    def close(self) -> None:
        self.slots.reset()
        self.jobs.clear()

    def held(self) -> dict[str, int]:
        """What it holds of its jobs: nothing, when all have departed."""
        return {"jobs": len(self.jobs), "slots": len(self.slots.places), "on the host": len(self.slots.away)}

    def run(self, plan: Plan) -> Step:
        decodes = self.jobs.decodes(plan)
        chunks = self.jobs.chunks(plan)
        slots = self.slots
        stall = slots.follow(plan, [part.job for part in decodes])
        decodes.sort(key=lambda part: slots.places[part.job])
        calls = [Chunk(slots.places[part.job], part.tokens, part.first, bool(part.yields)) for part in chunks]
        for part in (*decodes, *chunks):
            slots.wrote(part.job, part.first + len(part.tokens))
        began = perf_counter_ns()
        logits = self.graph.run([part.tokens[0] for part in decodes], [part.first for part in decodes], calls)
        took = perf_counter_ns() - began
        speakers = [part.job for part in (*decodes, *chunks) if part.yields]
        return Step(self.jobs.draw(logits, speakers), stall, slots.landed(), None, took)
