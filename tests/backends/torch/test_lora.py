"""Adapters on the torch body: PEFT's own numbers, whatever is beside them in a step; and files that are refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from fastserve.backends.torch.input_batch import Rows, pack  # noqa: E402
from fastserve.backends.torch.kv_cache import Cache  # noqa: E402
from fastserve.backends.torch.lora.peft_folder import AdapterError, simple  # noqa: E402
from fastserve.backends.torch.lora.sites import stack_of  # noqa: E402
from fastserve.backends.torch.model import Model, load_model  # noqa: E402
from fastserve.backends.torch.native import load  # noqa: E402
from fastserve.backends.torch.native.low_rank import LowRanks  # noqa: E402
from fastserve.backends.torch.native.stack import unfuse  # noqa: E402
from fastserve.engine.adapters import AdapterInUseError, UnknownAdapterError, named  # noqa: E402
from tests.backends.torch.families import GPT, VOCABULARY, write  # noqa: E402
from tests.backends.torch.made_adapters import adapted, changed, save, write_adapter  # noqa: E402

NATIVE = load()
pytestmark = pytest.mark.usefixtures("one_thread")
BLOCK = 4
TEXT = [(7 * i) % VOCABULARY for i in range(3, 40)]

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, heads of no whole vectors": ("llama", {"head_dim": 10, "num_key_value_heads": 1}),
    "qwen3, norms of heads": ("qwen3", {}),
    "gpt2, Conv1D": ("gpt2", GPT),
    "gemma2, no stack": ("gemma2", {"query_pre_attn_scalar": 8}),
    "opt, rows flattened": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "phi3, one layer for query, key and value": ("phi3", {}),
}


@cache
def base_of(folder: Path, kind: str) -> Path:
    name, settings = KINDS[kind]
    return write(folder / kind.partition(",")[0] / str(len(settings)), name, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def llama(folder: Path) -> Path:
    return base_of(folder, "llama")


@pytest.fixture(scope="module")
def good(folder: Path, llama: Path) -> Path:
    return write_adapter(folder / "good", llama)


def rows_of(text: Sequence[int], slot: int, turn: int = 0) -> Rows:
    width = -(-len(text) // BLOCK)
    return Rows(text, 0, range(turn * width, (turn + 1) * width), True, slot)


def cache_of(model: Model, sequences: int = 1) -> Cache:
    blocks = sequences * -(-len(TEXT) // BLOCK)
    return Cache(model.layers, model.kv_heads, model.head_dim, blocks, 0, BLOCK, model.dtype, model.device)


def logits(model: Model, *slots: int) -> list[Any]:
    """Of every position of TEXT, once for each slot, all in one step."""
    step = pack([], [rows_of(TEXT, slot, turn) for turn, slot in enumerate(slots)], BLOCK, True)
    step.wanted = torch.arange(len(slots) * len(TEXT))
    return list(model.forward(step, cache_of(model, len(slots))).split(len(TEXT)))


@pytest.mark.parametrize("native", ["auto", "off"])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_peft(kind: str, native: Any, folder: Path, tmp_path: Path) -> None:
    """With ranks and alphas by pattern, rsLoRA, in one step with the base's; and merged into the base."""
    base = base_of(folder, kind)
    settings: dict[str, Any] = {"use_rslora": True, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"down_proj": 3}}
    theirs = adapted(base, size=0.05, r=5, **settings)
    save(theirs, tmp_path / "adapter")
    text = torch.tensor([TEXT])
    with torch.inference_mode():
        want = theirs(input_ids=text).logits[0]
        with theirs.disable_adapter():
            plain = theirs(input_ids=text).logits[0]
        merged = theirs.merge_and_unload()(input_ids=text).logits[0]
    assert (want - plain).abs().max() > 0.5, "the adapter changes something"
    model = load_model(base, dtype="float32", native=native, lora=[f"style={tmp_path / 'adapter'}"])
    assert (native == "auto" and NATIVE is not None) == (model.native is not None)
    alone, beside = logits(model, -1, 0)
    for got, expected in ((beside, want), (beside, merged), (alone, plain)):
        torch.testing.assert_close(got, expected, atol=3e-5 * float(expected.std()), rtol=1e-4)


@pytest.mark.parametrize(
    "targets",
    [["q_proj"], ["k_proj", "up_proj"], ["v_proj", "gate_proj"], ["o_proj"], ["down_proj", "q_proj", "k_proj"],
     r".*\.1\.self_attn\.(q|v)_proj"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["llama", "llama, heads of no whole vectors"])
def test_some_layers_alone(kind: str, targets: Any, folder: Path, tmp_path: Path) -> None:
    """A product of several projections of which some are adapted, with ranks of their own."""
    base = base_of(folder, kind)
    theirs = adapted(base, target_modules=targets, rank_pattern={"k_proj": 7})
    save(theirs, tmp_path / "adapter")
    with torch.inference_mode():
        want = theirs(input_ids=torch.tensor([TEXT])).logits[0]
    model = load_model(base, dtype="float32", lora=[f"style={tmp_path / 'adapter'}"])
    torch.testing.assert_close(logits(model, 0)[0], want, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(NATIVE is None, reason="no compiler here builds the native kernels")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["llama", "qwen3, norms of heads", "llama, heads of no whole vectors"])
def test_bits_do_not_depend_on_the_rows_beside(kind: str, dtype: str, folder: Path, tmp_path: Path) -> None:
    """Alone, beside others of its own adapter, of another and of none, decoded token by token, and module by module."""
    base = base_of(folder, kind)
    model = load_model(base, dtype=dtype)
    plain = logits(model, -1)[0]
    model.adapters.load("one", str(write_adapter(tmp_path / "one", base, 1)))
    model.adapters.load("two", str(write_adapter(tmp_path / "two", base, 2, r=9, target_modules=["up_proj", "v_proj"])))
    one, two = logits(model, 0)[0], logits(model, 1)[0]
    assert not torch.equal(one, plain) and not torch.equal(two, plain) and not torch.equal(one, two)
    wanted = {-1: plain, 0: one, 1: two}
    for slots in ((0, 0, 0), (1, 0, -1, 0), (-1, 1), (-1, -1, 1, 0, 1)):
        for slot, got in zip(slots, logits(model, *slots), strict=True):
            assert torch.equal(got, wanted[slot]), (slots, slot)
    store = cache_of(model, 3)
    slots = (0, -1, 1)
    for at in range(len(TEXT)):
        rows = [
            rows_of(TEXT, slot, turn)._replace(tokens=TEXT[at : at + 1], first=at) for turn, slot in enumerate(slots)
        ]
        got = model.forward(pack(rows, [], BLOCK, True), store)
        for row, slot in zip(got, slots, strict=True):
            assert torch.equal(row, wanted[slot][at])
    stack = stack_of(model.module)
    assert stack is not None
    unfuse(model.module, stack.layers)
    for slot, got in zip((1, -1, 0), logits(model, 1, -1, 0), strict=True):
        assert torch.equal(got, wanted[slot]), "the modules one by one"


@pytest.mark.skipif(NATIVE is None, reason="no compiler here builds the native kernels")
def test_bits_do_not_depend_on_the_number_of_threads(folder: Path, tmp_path: Path) -> None:
    """300 rows of 512 numbers: enough that what adapters add is split too."""
    base = write(folder / "wide", "llama", hidden_size=512, intermediate_size=256)
    model = load_model(base, dtype="float32", lora=[f"one={write_adapter(tmp_path / 'one', base, size=0.02)}"])
    text = [i % VOCABULARY for i in range(200)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            step = pack([], [rows_of(text, 0), rows_of(text, -1, 1)], BLOCK, True)
            cache = Cache(model.layers, model.kv_heads, model.head_dim, 100, 0, BLOCK, model.dtype, model.device)
            found.append(model.forward(step, cache))
    finally:
        torch.set_num_threads(before)
    assert not torch.equal(found[0][0], found[0][1])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.skipif(NATIVE is None, reason="no compiler here builds the native kernels")
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("sizes", [[48, 16, 16], [40, 16, 24], [7, 3], [64]])
def test_a_packed_product_with_low_rank_parts(sizes: list[int], gated: bool) -> None:
    """Against matrices, for every mix of adapted projections."""
    assert NATIVE is not None
    if gated:
        sizes = [sizes[0], sizes[0]]
    dice = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=dice)  # noqa: E731
    weights = [draw(size, 24) for size in sizes]
    packed = NATIVE.pack_gated(*weights) if gated else NATIVE.pack(torch.cat(weights))
    x = draw(6, 24)
    slots = torch.tensor([-1, 0, 1, 0, 2, 1], dtype=torch.int32)
    low = LowRanks(sizes, gated, NATIVE.lanes, 3)
    given = [{0: (draw(5, 24), draw(sizes[0], 5))}, {i: (draw(2 + i, 24), draw(n, 2 + i)) for i, n in enumerate(sizes)}]
    for slot, factors in enumerate(given):
        low.put(slot, low.made(factors))
    got = NATIVE.linear(x, packed, (slots, low))
    for row, slot in enumerate(slots.tolist()):
        parts = []
        for i, weight in enumerate(weights):
            down, up = given[slot].get(i, (draw(1, 24), torch.zeros(sizes[i], 1))) if slot in (0, 1) else (None, None)
            parts.append(x[row] @ (weight if down is None else weight + up @ down).T)
        want = torch.nn.functional.silu(parts[0]) * parts[1] if gated else torch.cat(parts)
        torch.testing.assert_close(got[row], want, atol=1e-3, rtol=1e-4)


@pytest.mark.skipif(NATIVE is None, reason="no compiler here builds the native kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_many_passes_have_their_own_adapters(dtype: Any) -> None:
    """200 rows of 1100 numbers: a product takes them in several passes."""
    assert NATIVE is not None
    dice = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 1100, generator=dice).to(dtype) for n in (200, 96))
    packed, gated = NATIVE.pack(weight), NATIVE.pack_gated(weight, weight.flip(0))
    for pack_, sizes in ((packed, [48, 48]), (gated, [96, 96])):
        low = LowRanks(sizes, pack_.gated, NATIVE.lanes, 2)
        for slot in range(2):
            factors = torch.randn(6, 1100, generator=dice), torch.randn(sizes[slot], 6, generator=dice)
            low.put(slot, low.made({slot: factors}))
        slots = torch.arange(200, dtype=torch.int32) % 3 - 1
        whole = NATIVE.linear(x, pack_, (slots, low))
        for first, rows in ((0, 1), (7, 2), (40, 13), (150, 1), (101, 50), (199, 1)):
            part = slice(first, first + rows)
            assert torch.equal(NATIVE.linear(x[part], pack_, (slots[part], low)), whole[part])
        assert torch.equal(whole[::3], NATIVE.linear(x[::3], pack_))


def test_nothing_of_a_model_is_touched_before_an_adapter_comes(llama: Path, good: Path) -> None:
    model = load_model(llama, dtype="float32", native="off")
    assert not any(layer._forward_hooks for layer in model.module.modules())
    plain = logits(model, -1)[0]
    parameters = model.parameters, model.step_bytes
    model.adapters.load("style", str(good))
    assert (model.parameters, model.step_bytes) == parameters, "one copy of the base"
    assert torch.equal(logits(model, -1)[0], plain)
    assert 0 < model.adapters.bytes < 100_000


# -- those of a model --------------------------------------------------------------------------------------------------


def test_they_come_and_go(llama: Path, good: Path, tmp_path: Path) -> None:
    model = load_model(llama, dtype="float32", max_loras=2)
    adapters = model.adapters
    plain = logits(model, -1)[0]
    first = adapters.load("one", str(good))
    adapters.load("two", str(write_adapter(tmp_path / "two", llama, 2)))
    with pytest.raises(AdapterError, match="max_loras=2 is how many there may be at once"):
        adapters.load("three", str(good))
    with pytest.raises(AdapterError, match="'one' is loaded already"):
        adapters.load("one", str(good))
    assert adapters.take(first) == 0
    with pytest.raises(AdapterInUseError, match="'one' is in use by 1 requests"):
        adapters.drop("one")
    adapters.give(first)
    adapters.drop("one")
    with pytest.raises(UnknownAdapterError, match="no adapter 'one'"):
        adapters.drop("one")
    with pytest.raises(UnknownAdapterError, match="unloaded before this request began"):
        adapters.take(first)
    assert torch.equal(logits(model, 0)[0], plain), "nothing of it is left in its slot"
    again = adapters.load("one", str(good))
    assert again.number != first.number and again.scope != first.scope, "what is cached of the first is not its own"
    assert adapters.take(again) == 0
    assert set(adapters.loaded) == {"one", "two"}


@pytest.mark.parametrize("native", ["auto", "off"])
def test_one_that_fails_when_it_is_tried_leaves_nothing(native: Any, llama: Path, good: Path, tmp_path: Path) -> None:
    """Factors that are finite and logits that are not."""
    model = load_model(llama, dtype="float32", native=native)
    plain = logits(model, -1)[0]
    huge = changed(good, tmp_path / "huge", tensors=lambda found: {name: it * 1e38 for name, it in found.items()})
    with pytest.raises(AdapterError, match="not finite"):
        model.adapters.load("huge", str(huge))
    assert not model.adapters.loaded and torch.equal(logits(model, 0)[0], plain)
    model.adapters.load("good", str(good))


def test_a_file_that_memory_has_no_room_for(llama: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(llama, dtype="float32")
    monkeypatch.setattr("fastserve.backends.torch.lora.adapters.free_host_memory", lambda: 1000)
    with pytest.raises(AdapterError, match="1,000 are free: unload another one"):
        model.adapters.load("good", str(good))


@pytest.mark.parametrize(
    ("given", "why"),
    [("style", "give NAME=FOLDER"), ("=x", "give NAME=FOLDER"), ("x=", "give NAME=FOLDER"),
     (f"{'a' * 300}=x", "1 to 256"), ("a\nb=x", "printable")],
)  # fmt: skip
def test_the_option(given: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        named(given)
    assert named("style=a=b") == ("style", "a=b")


# -- files that are refused --------------------------------------------------------------------------------------------

FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "use_dora is set: DoRA .* merge"),
    "bias": ({"bias": "lora_only"}, "bias is 'lora_only'"),
    "a bias of its own": ({"lora_bias": True}, "lora_bias is set"),
    "whole layers": ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
    "tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices is set"),
    "experts": ({"target_parameters": ["experts.up"]}, "target_parameters is set"),
    "layers again": ({"layer_replication": [[0, 1]]}, "layer_replication is set, and is not implemented"),
    "a field of a later release": ({"use_magic": True}, "use_magic is set, and is not implemented"),
    "another method": ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    "no rank": ({"r": 0}, "r is 0"),
    "a rank that is a text": ({"r": "4"}, "r is '4'"),
    "a rank beyond all": ({"r": 10**400}, "r is 1000"),
    "another rank": ({"r": 3}, "takes .*: it is of another model"),
    "a rank pattern of texts": ({"rank_pattern": {"q_proj": "x"}}, r"rank_pattern\['q_proj'\] is 'x'"),
    "alpha": ({"lora_alpha": None}, "lora_alpha is None"),
    "a pattern that is none": ({"alpha_pattern": {"(q": 1}}, "is no pattern"),
    "a pattern for ever": ({"alpha_pattern": {"(a+)+$": 1}}, "too intricate"),
    "patterns without end": ({"rank_pattern": {f"a{i}": 1 for i in range(3000)}}, "3,000 patterns"),
    "a layer without weights": ({"target_modules": ["q_proj", "lm_head"]}, None),  # lm_head is no site: not asked for
}  # fmt: skip


@pytest.mark.parametrize("case", FIELDS)
def test_fields_that_would_change_the_numbers_are_refused(case: str, llama: Path, good: Path, tmp_path: Path) -> None:
    fields, why = FIELDS[case]
    model = load_model(llama, dtype="float32")
    folder = changed(good, tmp_path / "other", fields)
    if why is None:
        model.adapters.load("x", str(folder))
        return
    with pytest.raises(AdapterError, match=why):
        model.adapters.load("x", str(folder))
    assert not model.adapters.loaded


def without(part: str) -> Any:
    return lambda found: {name: it for name, it in found.items() if part not in name}


TENSORS: dict[str, tuple[Any, str]] = {
    "one factor": (without("0.self_attn.q_proj.lora_A"), "has lora_B alone"),
    "a layer lacks": (without("0.self_attn.q_proj"), "no weights for model.layers.0.self_attn.q_proj, which target"),
    "nothing": (without("lora"), "has no weights"),
    "not finite": (lambda found: {name: it / 0 for name, it in found.items()}, "not finite"),
    "whole numbers": (lambda found: {name: it.long() for name, it in found.items()}, "no floating-point numbers"),
    "another shape": (lambda found: {name: it[:, 1:].clone() for name, it in found.items()}, "of another model"),
    "a layer too many": (
        lambda found: {name.replace(".1.", ".7."): it for name, it in found.items()}, "none of this number",
    ),
    "another family": (
        lambda found: {name.replace("q_proj", "query"): it for name, it in found.items()}, "none of that name",
    ),
    "the output": (
        lambda found: found | {"base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)},
        "lm_head.*cannot be adapted",
    ),
    "embeddings": (
        lambda found: found | {"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 96)},
        "embeddings and whole layers",
    ),
    "large": (lambda found: found | {"more": torch.zeros(2_000_000)}, "bytes, more than adapters of rank 64"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_weights_that_do_not_fit_are_refused(case: str, llama: Path, good: Path, tmp_path: Path) -> None:
    make, why = TENSORS[case]
    model = load_model(llama, dtype="float32")
    folder = changed(good, tmp_path / "other", {"target_modules": "all-linear"}, make)
    with pytest.raises(AdapterError, match=why):
        model.adapters.load("x", str(folder))
    assert not model.adapters.loaded


def test_damaged_and_missing_files(llama: Path, good: Path, tmp_path: Path, caplog: Any) -> None:
    model = load_model(llama, dtype="float32", max_lora_rank=2)
    caplog.set_level(logging.INFO)

    def refused(folder: Path, why: str) -> None:
        with pytest.raises(AdapterError, match=why):
            model.adapters.load("x", str(folder))

    refused(tmp_path / "nowhere", "there is no folder")
    refused(llama, "it has no adapter_config.json")
    refused(good, "has rank 4, and max_lora_rank=2")
    for at, text in enumerate(("{", "[]", "\x00", "[" * 100_000, f'{{"r": "{"x" * (1 << 21)}"}}')):
        broken = changed(good, tmp_path / f"broken{at}")
        (broken / "adapter_config.json").write_text(text)
        refused(broken, "adapter_config.json")
    for at, data in enumerate((b"", b"\xff" * 100, (1 << 40).to_bytes(8, "little") + b"{}")):
        broken = changed(good, tmp_path / f"cut{at}")
        (broken / "adapter_model.safetensors").write_bytes(data)
        refused(broken, "cannot be read")
    pickled = changed(good, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    refused(pickled, "may run code")


def test_patterns_take_moderate_time(llama: Path, good: Path, tmp_path: Path) -> None:
    model = load_model(llama, dtype="float32")
    for at, pattern in enumerate((r"(.*)*x", r"(a|a)+$" * 3, r".*.*.*.*.*.*.*.*x", "(" * 5000)):
        assert not simple(pattern)
        began = time.process_time()
        model.adapters.load(f"x{at}", str(changed(good, tmp_path / f"x{at}", {"target_modules": pattern})))
        assert time.process_time() - began < 5
    assert simple(r".*\.layers\.(0|1)\.(self_attn|mlp)\.(q|k)_proj")
