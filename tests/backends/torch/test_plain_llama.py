"""The embedded model without transformers' models: the same bits as with them, and nothing of theirs is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import AutoTokenizer, GenerationConfig  # noqa: E402

from fastserve.backends.torch import attention, checkpoint, plain_llama  # noqa: E402
from fastserve.backends.torch.attention_interface import NAME  # noqa: E402
from fastserve.backends.torch.native import load  # noqa: E402
from fastserve.backends.torch.native.stack import fuse  # noqa: E402
from fastserve.backends.torch.native.surgery import operate  # noqa: E402
from fastserve.backends.torch.verify import Probe  # noqa: E402
from fastserve.models.embedded import make_embedded  # noqa: E402
from tests.backends.torch.rows import Sequence, Table  # noqa: E402

CPU = torch.device("cpu")
NATIVE = load()
pytestmark = pytest.mark.usefixtures("one_thread")


def theirs(dtype: Any) -> Any:
    """transformers' Llama with the embedded model's weights."""
    return checkpoint.load(str(make_embedded()), dtype, CPU, None, False)


def logits(module: Any, kernels: Any) -> Any:
    from fastserve.backends.torch.attention_interface import Pass, forward
    from fastserve.backends.torch.kv_cache import Cache

    module.set_attn_implementation(NAME)
    module.eval().requires_grad_(False)
    cache = Cache(6, 2, 64, 20, 0, 16, module.dtype, CPU)
    table = Table(20, 16, 0)
    first, second = Sequence(list(b"The quick brown fox jumps over")), Sequence(list(b"a dog"))
    parts = []
    for work in ([(first, 20), (second, 4)], [(second, 1), (first, 10)]):
        step = table.step(work, list(range(sum(n for _, n in work))))
        parts.append(forward(module, Pass(step, cache.pool, kernels)))
    return torch.cat(parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_its_logits_have_the_bits_of_transformers_llama(dtype: Any) -> None:
    ours, reference = plain_llama.load(dtype, CPU), theirs(dtype)
    assert ours.module.dtype is reference.module.dtype is dtype
    mine, want = dict(ours.module.named_parameters()), dict(reference.module.named_parameters())
    assert mine.keys() == want.keys() and all(torch.equal(mine[name], want[name]) for name in want)
    assert torch.equal(logits(ours.module, attention), logits(reference.module, attention))
    if NATIVE is not None:
        for module in (ours.module, reference.module):
            operate(module, NATIVE)
        assert torch.equal(logits(ours.module, NATIVE), logits(reference.module, NATIVE))
        assert fuse(ours.module, NATIVE) is not None, "one call for all layers"
        assert torch.equal(logits(ours.module, NATIVE), logits(reference.module, NATIVE))


def test_it_passes_the_check_of_any_family() -> None:
    parts = plain_llama.load(torch.float32, CPU)
    assert Probe("embedded", parts.module.eval(), 4096).check(attention) == (6, 6, 2, 64)


def test_ends_defaults_and_tokenizer_are_those_that_transformers_reads() -> None:
    ours, reference = plain_llama.load(torch.float32, CPU), theirs(torch.float32)
    assert ours.eos_ids == reference.eos_ids and ours.length == reference.length
    given: Any = GenerationConfig.from_pretrained(make_embedded())
    assert ours.module.generation_config.suppress_tokens == given.suppress_tokens
    theirs_read = AutoTokenizer.from_pretrained(make_embedded())
    assert type(ours.tokenizer) is type(theirs_read)
    chat = [{"role": "user", "content": "häh?"}, {"role": "odd", "content": "<|end|>"}]
    for text in ("plain", "Grüße\n🙂 <|end|>", ""):
        assert ours.tokenizer.encode(text) == theirs_read.encode(text)
    for more in (True, False):
        asked: Any = {"tokenize": False, "add_generation_prompt": more}
        assert ours.tokenizer.apply_chat_template(chat, **asked) == theirs_read.apply_chat_template(chat, **asked)


READY = """
import json, sys
from fastserve.launch import Body
from fastserve.server.app import create_app
from fastserve.server.config.settings import FastServeConfig
config = FastServeConfig(model="embedded", state_dir=sys.argv[1], device="cpu")
before = sorted(sys.modules)
with Body("embedded", device="cpu").engine(config.engine()) as engine:
    create_app(engine, config)
    assert engine.generate(["hello"])[0].token_ids
    print(json.dumps([before, sorted(sys.modules)]))
"""

HEAVY = (
    "transformers.modeling_utils", "transformers.generation", "transformers.models.llama", "torch._dynamo",
    "torch._inductor", "torch.distributed.tensor", "torch.onnx", "sympy", "sentencepiece", "gguf", "accelerate",
)  # fmt: skip
"""What transformers' models import: seconds of CPU time before a server is ready."""


def test_a_ready_server_has_imported_none_of_what_takes_seconds(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", READY, str(tmp_path / "state")]
    ended = subprocess.run(command, capture_output=True, text=True, env=env)
    assert ended.returncode == 0, ended.stderr
    before, after = json.loads(ended.stdout.splitlines()[-1])
    assert "fastapi" in before, "the app is there"
    for light in ("torch", "transformers"):
        assert light not in before
    assert "torch" in after
    assert [name for name in HEAVY if name in after] == []
