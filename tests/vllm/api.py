"""What the tests need of vLLM, from the real one or from the stand-ins: classes, and a scheduler for a Case."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.vllm import serving
from tests.vllm.cases import BLOCK, MODEL_LENGTH, Arrival, Case

INSTALLED = importlib.util.find_spec("vllm") is not None

ENVIRONMENT = serving.ENVIRONMENT | {
    "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_TARGET_DEVICE": "cpu",
}  # fmt: skip
"""For vLLM to start in seconds and to step in milliseconds, in this process."""

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1000, "hidden_size": 128,
    "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 1024, "torch_dtype": "float32", "tie_word_embeddings": False, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
"""config.json of a tiny model."""


class Api(NamedTuple):
    """name: for messages. config: the VllmConfig of a case; pools: its KVCacheConfig. hasher: of block hashes."""

    name: str
    Scheduler: type[Any]
    AsyncScheduler: type[Any]
    Request: type[Any]
    RequestStatus: Any
    PauseState: Any
    SamplingParams: Callable[..., Any]
    StructuredOutputsParams: Callable[..., Any]
    ModelRunnerOutput: Callable[..., Any]
    DraftTokenIds: Callable[..., Any]
    config: Callable[[Case], Any]
    pools: Callable[[Case], Any]
    hasher: Callable[[], Any]

    def request(self, told: Arrival, case: Case) -> Any:
        """told.grammar: the caller puts one into request.structured_output_request.grammar."""
        grammar = self.StructuredOutputsParams(regex="a*") if told.grammar else None
        params = self.SamplingParams(
            max_tokens=told.most, temperature=0, ignore_eos=True, stop_token_ids=list(case.stop_tokens),
            extra_args={**told.extra, "at": told.at}, structured_outputs=grammar,
        )  # fmt: skip
        hasher = self.hasher() if case.prefix else None
        return self.Request(told.id, list(told.prompt), params, None, arrival_time=told.at / 1e9, block_hasher=hasher)

    def make(self, case: Case, settings: dict[str, Any], kind: Callable[..., Any]) -> Any:
        """A scheduler as EngineCore makes it. settings: of `--additional-config`. kind: what it is made by."""
        config = self.config(case)
        config.additional_config = settings
        return kind(
            vllm_config=config, kv_cache_config=self.pools(case), structured_output_manager=Grammars(),
            block_size=BLOCK, hash_block_size=BLOCK, include_finished_set=False, log_stats=case.stats,
        )  # fmt: skip


class Grammars:
    """For vLLM's StructuredOutputManager: any token fits any grammar."""

    def accept_tokens(self, request: Any, tokens: list[int]) -> bool:
        return True

    def validate_tokens(self, request: Any, tokens: list[int]) -> list[int]:
        return tokens


@functools.cache
def real() -> Api:
    """vLLM's own. ImportError where it is not installed."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import torch
    from vllm import EngineArgs, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.interface import PauseState
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
    from vllm.v1.request import Request, RequestStatus

    init_none_hash(sha256)

    @functools.cache
    def base(drafts: int) -> Any:
        speculation = {"method": "ngram", "num_speculative_tokens": drafts, "prompt_lookup_max": 3}
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
            return EngineArgs(
                model=folder, skip_tokenizer_init=True, enforce_eager=True, max_model_len=MODEL_LENGTH, block_size=32,
                max_num_seqs=256, max_num_batched_tokens=2048, enable_prefix_caching=True, dtype="float32",
                speculative_config=speculation if drafts else None,
            ).create_engine_config()  # fmt: skip

    def config(case: Case) -> Any:
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # which the second one's needs would refuse here
        made = base(case.drafts)
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = str(int(case.v2))
        settings = made.scheduler_config
        settings.max_num_seqs, settings.max_num_active_seqs = case.rows, case.slots
        settings.max_num_batched_tokens = settings.max_num_scheduled_tokens = case.budget
        settings.async_scheduling, settings.watermark = case.ahead, case.watermark
        cache = made.cache_config
        cache.enable_prefix_caching, cache.num_gpu_blocks, cache.block_size = case.prefix, case.blocks, BLOCK
        return made

    def pools(case: Case) -> Any:
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        return KVCacheConfig(case.blocks, [], [KVCacheGroupSpec(["layer"], spec)])

    return Api(
        "vllm", Scheduler, AsyncScheduler, Request, RequestStatus, PauseState, SamplingParams, StructuredOutputsParams,
        ModelRunnerOutput, DraftTokenIds, config, pools, lambda: get_request_block_hasher(BLOCK, sha256),
    )  # fmt: skip


@functools.cache
def standin() -> Api:
    """The stand-ins under vLLM's names."""
    from types import SimpleNamespace as Config

    from tests.vllm.standin import async_scheduler, blocks, interface, output, request, scheduler

    def config(case: Case) -> Any:
        return Config(
            scheduler_config=Config(
                max_num_seqs=case.rows, max_num_active_seqs=case.slots, max_num_batched_tokens=case.budget,
                max_num_scheduled_tokens=case.budget, async_scheduling=case.ahead, watermark=case.watermark,
                policy="fcfs", scheduler_reserve_full_isl=True, enable_chunked_prefill=True,
                long_prefill_token_threshold=0,
            ),
            cache_config=Config(
                enable_prefix_caching=case.prefix, num_gpu_blocks=case.blocks, block_size=BLOCK,
            ),
            model_config=Config(max_model_len=MODEL_LENGTH, runner_type="generate", is_diffusion=False, model="tiny"),
            parallel_config=Config(pipeline_parallel_size=1, tensor_parallel_size=1, data_parallel_size=1),
            lora_config=None, speculative_config=None, kv_transfer_config=None, ec_transfer_config=None,
            num_speculative_tokens=case.drafts, num_lookahead_tokens=0, use_v2_model_runner=case.v2,
        )  # fmt: skip

    def pools(case: Case) -> Any:
        return blocks.KVCacheConfig(
            case.blocks, [], [blocks.KVCacheGroupSpec(["layer"], blocks.FullAttentionSpec(BLOCK))]
        )

    return Api(
        "stand-in", scheduler.Scheduler, async_scheduler.AsyncScheduler, request.Request, request.RequestStatus,
        interface.PauseState, request.SamplingParams, request.StructuredOutputsParams, output.ModelRunnerOutput,
        output.DraftTokenIds, config, pools, lambda: blocks.get_request_block_hasher(BLOCK),
    )  # fmt: skip
