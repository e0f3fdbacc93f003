"""Families that are served: the packed, paged step equals transformers' own code, whatever the chunks and copies."""

import random
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fastserve.backends.torch.kv_cache import Cache  # noqa: E402
from fastserve.backends.torch.model import Model, load_model  # noqa: E402
from tests.backends.torch import families  # noqa: E402
from tests.backends.torch.families import EXPERTS, VOCABULARY, WINDOWED  # noqa: E402
from tests.backends.torch.rows import Sequence, Table  # noqa: E402
from tests.devices import DEVICES  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCK = 4
PROMPTS = (1, 14, 31)  # tokens; most are longer than the window of 5
NEW = 8

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}

EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, dynamic rope": ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 64}),
    "mistral": ("mistral", {"sliding_window": families.WINDOW}),
    "qwen2": ("qwen2", {}),
    "qwen2, windows": ("qwen2", {**WINDOWED, "use_sliding_window": True}),
    "qwen3": ("qwen3", {}),
    "qwen3, windows": ("qwen3", {**WINDOWED, "use_sliding_window": True}),
    "gpt2": ("gpt2", {}),
    "gpt2, each layer scaled": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gpt_neox": ("gpt_neox", {}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {"sliding_window": families.WINDOW}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {**WINDOWED, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8}),
    "gemma3": ("gemma3_text", {**WINDOWED, "query_pre_attn_scalar": 8}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", WINDOWED),
    "gpt_oss": ("gpt_oss", {**WINDOWED, **EXPERTS}),
    "mixtral": ("mixtral", EXPERTS),
}

NATIVE = {"llama", "mistral", "gemma2", "gpt_oss"}
"""Families that are also run on the native kernels where these can be built: plain, windows, soft caps, sinks."""

OTHERS: dict[str, dict[str, Any]] = {
    "apertus": {}, "arcee": {}, "biogpt": {}, "bitnet": {}, "cohere": {}, "cohere2": WINDOWED, "ernie4_5": {},
    "exaone4": WINDOWED, "glm": {}, "glm4": {}, "gpt_bigcode": {}, "granite": {}, "granitemoe": EXPERTS, "helium": {},
    "hunyuan_v1_dense": {}, "jetmoe": {}, "ministral": WINDOWED, "nanochat": {}, "nemotron": {}, "olmoe": EXPERTS,
    "persimmon": {}, "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 24}, "qwen3_moe": EXPERTS,
    "seed_oss": {}, "smollm3": {}, "stablelm": {}, "starcoder2": {"sliding_window": families.WINDOW},
    "vaultgemma": WINDOWED, **families.ALONE,
}  # fmt: skip


def load(folder: Path, device: str = "cpu", **settings: Any) -> Model:
    return load_model(folder, device=device, dtype="float32", **settings)


def cache_of(model: Model, blocks: int, host_blocks: int = 0) -> Cache:
    size = (model.layers, model.kv_heads, model.head_dim, blocks, host_blocks, BLOCK)
    return Cache(*size, model.dtype, model.device)


def prompts(seed: int = 1) -> list[list[int]]:
    dice = random.Random(seed)
    return [[dice.randrange(VOCABULARY) for _ in range(n)] for n in PROMPTS]


def stock(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def serve(model: Model, texts: list[list[int]], seed: int = 2) -> list[list[int]]:
    """Greedy tokens of all, side by side: random chunks, and now and then one goes to the host and comes back."""
    dice = random.Random(seed)
    blocks = 15 * len(texts)
    cache = cache_of(model, blocks, 40)
    table = Table(blocks, BLOCK, seed)
    away: dict[int, list[int]] = {}
    all_of_them = [Sequence(list(text)) for text in texts]
    moves = 0
    while True:
        open_ = [i for i, s in enumerate(all_of_them) if len(s.tokens) < len(texts[i]) + NEW]
        if not open_:
            break
        at = dice.choice(open_)
        sequence = all_of_them[at]
        if at in away:
            new = [table.free.pop() for _ in away[at]]
            cache.copy_in(away.pop(at), new).wait()
            sequence.blocks = new
            moves += 1
        elif not away and sequence.blocks:
            away[at] = list(range(len(sequence.blocks)))
            cache.copy_out(sequence.blocks, away[at]).wait()
            cache.pool[sequence.blocks] = float("nan")
            table.free += sequence.blocks
            dice.shuffle(table.free)
        work = []
        for i in open_:
            left = len(all_of_them[i].tokens) - all_of_them[i].done
            if i not in away and dice.random() < 0.8:
                work.append((all_of_them[i], min(left, dice.choice([1, 3, 8, 30]))))
        if not work:
            continue
        step = table.step(work)
        logits = model.forward(step, cache)
        rows = sorted(work, key=lambda pair: pair[1] != 1)
        for (member, _), row in zip(rows, logits, strict=True):
            if member.done == len(member.tokens):
                member.tokens.append(int(row.argmax()))
    cache.close()
    assert moves > 3
    return [s.tokens for s in all_of_them]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", EXACT)
def test_greedy_tokens_equal_generate(name: str, device: str, tmp_path: Path) -> None:
    kind, settings = EXACT[name]
    families.write(tmp_path, kind, **settings)
    own = stock(tmp_path)
    texts = prompts()
    expected = []
    for text in texts:
        ids = torch.tensor([text])
        mask = torch.ones_like(ids)
        out = own.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW, pad_token_id=0)
        expected.append(out[0].tolist())
    assert len({tuple(tokens[-NEW:]) for tokens in expected}) == len(texts)  # a model that says something
    for native in ("off", "auto") if name in NATIVE and device == "cpu" else ("off",):
        assert serve(load(tmp_path, device, native=native), texts) == expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", OTHERS)
def test_packed_logits_equal_the_stock_ones(kind: str, device: str, tmp_path: Path) -> None:
    if kind in families.ALONE and families.alone(kind):
        pytest.skip(f"in transformers {transformers.__version__} {kind} never calls our attention: see test_verify.py")
    families.write(tmp_path, kind, **OTHERS[kind])
    own = stock(tmp_path)
    texts = prompts()
    model = load(tmp_path, device, native="off")
    cache = cache_of(model, 40)
    table = Table(40, BLOCK)
    sequences = [Sequence(list(text)) for text in texts]
    dice = random.Random(3)
    got: list[list[Any]] = [[] for _ in texts]
    while any(s.done < len(s.tokens) for s in sequences):
        work = [(s, min(len(s.tokens) - s.done, dice.choice([1, 4, 15]))) for s in sequences if s.done < len(s.tokens)]
        rows = sorted(work, key=lambda pair: pair[1] != 1)
        step = table.step(work, list(range(sum(n for _, n in work))))
        for (sequence, _), part in zip(rows, model.forward(step, cache).split([n for _, n in rows]), strict=True):
            got[sequences.index(sequence)].append(part)
    for text, parts in zip(texts, got, strict=True):
        with torch.no_grad():
            expected = own(torch.tensor([text]), use_cache=False).logits[0]
        torch.testing.assert_close(torch.cat(parts).cpu(), expected, atol=2e-4 * float(expected.std()), rtol=1e-4)
