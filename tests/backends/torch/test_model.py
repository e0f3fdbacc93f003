"""Loading a model, and one forward pass."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fastserve.backends.torch import checkpoint  # noqa: E402
from fastserve.backends.torch.checkpoint import ModelNotFoundError  # noqa: E402
from fastserve.backends.torch.kv_cache import Cache  # noqa: E402
from fastserve.backends.torch.model import Model, load_model  # noqa: E402
from fastserve.backends.torch.verify import RefusedModelError  # noqa: E402
from tests.backends.torch import families  # noqa: E402
from tests.backends.torch.rows import Sequence, Table  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[3]


def load(folder: Path | str, **settings: Any) -> Model:
    return load_model(folder, **{"device": "cpu", "dtype": "float32", "native": "off", **settings})


def cache_of(model: Model, blocks: int = 8) -> Cache:
    return Cache(model.layers, model.kv_heads, model.head_dim, blocks, 0, 16, model.dtype, model.device)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.write(tmp_path_factory.mktemp("llama"), "llama", eos_token_id=[3, 7], max_position_embeddings=64)


def test_importing_the_package_loads_no_torch_and_calms_the_spinning() -> None:
    script = "import os, sys, fastserve.engine; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    clean = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=clean, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["10000", "False"]


def test_what_a_model_says_about_itself(folder: Path) -> None:
    model = load(folder)
    assert (model.layers, model.heads, model.kv_heads, model.head_dim) == (2, 4, 2, 8)
    assert (model.vocab_size, model.max_model_len) == (96, 64)
    assert model.eos_ids == {3, 7}
    assert model.tokenizer is None
    assert model.native is None
    assert model.suppress == ()
    assert model.defaults == {}
    assert (model.dtype, model.device) == (torch.float32, torch.device("cpu"))
    assert model.name == str(folder)
    cache = cache_of(model)
    assert model.block_bytes(16) == cache.block_bytes


def test_generation_config_gives_eos_suppressed_tokens_and_sampling_defaults(tmp_path: Path) -> None:
    families.write_config(tmp_path, "llama", eos_token_id=5)
    assert load(tmp_path, load_format="dummy").eos_ids == {5}
    given = {"eos_token_id": 9, "suppress_tokens": [1, 2], "do_sample": True, "temperature": 0.6, "top_k": 20}
    (tmp_path / "generation_config.json").write_text(json.dumps(given))
    model = load(tmp_path, load_format="dummy")
    assert model.eos_ids == {5, 9}  # a fine-tune may have changed one of them only
    assert model.suppress == (1, 2)
    assert model.defaults == {"temperature": 0.6, "top_k": 20}


def test_only_the_wanted_rows_come_back(folder: Path) -> None:
    model = load(folder)
    tokens = list(range(10, 30))
    rows = {}
    for wanted in ([19], [3, 0, 19], list(range(20)), []):
        step = Table(8, 16).step([(Sequence(tokens), 20)], wanted)
        rows[len(wanted)] = model.forward(step, cache_of(model))
        assert rows[len(wanted)].shape == (len(wanted), 96)
        assert rows[len(wanted)].dtype == torch.float32
    torch.testing.assert_close(rows[3], rows[20][[3, 0, 19]])
    torch.testing.assert_close(rows[1], rows[20][[19]])


def test_a_forward_pass_writes_kv_of_its_rows_and_nothing_else(folder: Path) -> None:
    model = load(folder)
    cache = cache_of(model, 3)
    cache.pool.fill_(float("nan"))
    table = Table(3, 16)
    sequence = Sequence(list(range(20)))
    model.forward(table.step([(sequence, 18)]), cache)
    written = ~cache.pool.isnan().all(-1).all(3).all(2).all(1)  # (blocks, tokens)
    assert written.sum() == 18
    assert bool(written[sequence.blocks[0]].all())
    assert bool(written[sequence.blocks[1]][:2].all())


def test_a_failed_pass_leaves_the_model_usable(folder: Path) -> None:
    model = load(folder)
    step = Table(8, 16).step([(Sequence([1, 2, 3]), 3)])
    expected = model.forward(step, cache_of(model))
    bad = Table(8, 16).step([(Sequence([1, 2, 3]), 3)])
    bad.tokens[1] = 10_000
    with pytest.raises(IndexError):
        model.forward(bad, cache_of(model))
    assert torch.equal(model.forward(step, cache_of(model)), expected)


def test_dummy_weights_come_from_the_seed_alone(tmp_path: Path) -> None:
    families.write_config(tmp_path, "gpt2")
    before = torch.random.get_rng_state()
    one, same, other = (load(tmp_path, load_format="dummy", seed=seed) for seed in (4, 4, 5))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [model.module.get_output_embeddings().weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_longer_context_than_the_models_own_is_clamped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(folder, max_model_len=40).max_model_len == 40
    with caplog.at_level(logging.WARNING, "fastserve"):
        assert load(folder, max_model_len=1000).max_model_len == 64
    assert "max_model_len=1000 is above the model's own 64 tokens" in caplog.text


def test_long_rotary_factors_end_the_context_before_they_change() -> None:
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    for most, expected in ((256, 32), (16, 16)):
        sizes = {**families.SIZES, "max_position_embeddings": most, "original_max_position_embeddings": 32}
        config = transformers.AutoConfig.for_model("phi3", **sizes, rope_parameters=rope)
        assert checkpoint.own_length(config) == expected
    assert checkpoint.own_length(transformers.AutoConfig.for_model("llama", **families.SIZES)) == 256


def test_a_tokenizer_is_loaded_where_there_is_one(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    families.write_config(tmp_path, "llama")
    words = {f"w{i}": i for i in range(96)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(tmp_path / "tokenizer.json"))
    model = load(tmp_path, load_format="dummy")
    assert model.tokenizer.decode([5]) == "w5"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match=r"The tokenizer.json of .* it has no model\.$"):
        load(tmp_path, load_format="dummy")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"There is no folder {name}"):
        load(name)


def test_an_id_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="no-such-model is neither a folder here nor a model that can be"):
        load("no-such-model")


def test_broken_folders_are_clear_errors(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"it has no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "never-heard-of"}')
    with pytest.raises(ModelNotFoundError, match=r"config.json of .* cannot be used"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(RefusedModelError, match="no causal language model of the type clip"):
        load(tmp_path)
    families.write_config(tmp_path, "llama")
    with pytest.raises(ModelNotFoundError, match=r"weights of .* cannot be read: .* load_format=dummy"):
        load(tmp_path)


def test_weights_that_lack_a_tensor_are_not_made_up(tmp_path: Path, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ModelNotFoundError, match=r"lack 1 tensors, model.layers.1.mlp.up_proj.weight among them"):
        load(tmp_path)


def test_loading_draws_no_bars(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Not even where somebody could see them: a folder is read in no time."""
    from transformers.utils import logging as bars

    capfd.readouterr()
    assert bars.is_progress_bar_enabled()
    load(folder)
    out, err = capfd.readouterr()
    assert "Loading" not in out + err
    assert bars.is_progress_bar_enabled()


def test_settings_out_of_range(folder: Path) -> None:
    for settings in ({"threads": 0}, {"load_format": "gguf"}, {"native": "on"}, {"dtype": "int8"}):
        with pytest.raises(ValueError, match=r"threads=0|gguf|'on'|int8"):
            load(folder, **settings)


@pytest.mark.parametrize(
    "device", [pytest.param("cuda", marks=pytest.mark.cuda), pytest.param("mps", marks=pytest.mark.mps)]
)
def test_on_an_accelerator_the_logits_are_those_of_the_cpu(device: str, folder: Path) -> None:
    logits = {}
    for place in ("cpu", device):
        model = load(folder, device=place)
        cache = cache_of(model)
        table = Table(8, 16)
        pair = [Sequence(list(range(20))), Sequence(list(range(40, 73)))]
        model.forward(table.step([(pair[0], 19), (pair[1], 17)]), cache)
        logits[place] = model.forward(table.step([(pair[0], 1), (pair[1], 16)]), cache).cpu()
        cache.close()
    torch.testing.assert_close(logits[device], logits["cpu"], atol=1e-3, rtol=1e-3)
