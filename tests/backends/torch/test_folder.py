"""Folders that hold no model, or a broken one: one line that names the file, what it is, and what to do."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from fastserve.backends.torch.model import load_model  # noqa: E402
from fastserve.backends.torch.verify import RefusedModelError  # noqa: E402
from fastserve.models.folder import ModelNotFoundError  # noqa: E402
from tests.backends.torch import families  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 137408560\n"
WEIGHTS = "model.safetensors"


class Code:
    """A pickle that would make a folder where it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def cut(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def longer(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"more")


def sharded(folder: Path, there: dict[str, str]) -> None:
    """there: tensor -> file, of which one exists."""
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": there}))


def adapter(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))


def gguf(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "model.Q4_1.gguf").write_bytes(b"GGUF" + bytes(60))


def pickled(folder: Path, what: Any, torch_save: bool) -> None:
    (folder / WEIGHTS).unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        torch.save(what, file) if torch_save else pickle.dump(what, file)


def renamed(folder: Path, old: str, new: str) -> None:
    found = load_file(folder / WEIGHTS)
    save_file({key.replace(old, new): it for key, it in found.items()}, folder / WEIGHTS, {"format": "pt"})


def retyped(folder: Path, dtype: Any, times: float = 1.0) -> None:
    found = load_file(folder / WEIGHTS)
    changed = {key: (times * it).to(dtype) if "_proj" in key else it for key, it in found.items()}
    save_file(changed, folder / WEIGHTS, {"format": "pt"})


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights: a pointer": (
        lambda it: (it / WEIGHTS).write_text(POINTER),
        r"model.safetensors .* Git LFS pointer.*pull",
    ),
    "weights: cut": (cut, r"model.safetensors of .* is cut short: it should have \d+ bytes and has \d+"),
    "weights: cut in the header": (
        lambda it: (it / WEIGHTS).write_bytes((it / WEIGHTS).read_bytes()[:90]),
        "model.safetensors of .* is cut short: its header",
    ),
    "weights: too long": (longer, "model.safetensors of .* is damaged: it should have"),
    "weights: empty": (lambda it: (it / WEIGHTS).write_bytes(b""), "model.safetensors of .* is empty"),
    "weights: noise": (lambda it: (it / WEIGHTS).write_bytes(b"\xff" * 99), "is not safetensors: it does not begin"),
    "weights: a page": (lambda it: (it / WEIGHTS).write_text("<!DOCTYPE html><p>404"), "is a web page, not the file"),
    "weights: a pickle by another name": (
        lambda it: torch.save({"a": torch.ones(2)}, it / WEIGHTS),
        "is a pickle of PyTorch's, not safetensors",
    ),
    "weights: a link to nowhere": (
        lambda it: ((it / WEIGHTS).unlink(), (it / WEIGHTS).symlink_to("blobs/12")),
        "model.safetensors of .* is a link to blobs/12, which is not there",
    ),
    "weights: none": (lambda it: (it / WEIGHTS).unlink(), r"there is no model\.safetensors\. load_format=dummy"),
    "weights: another name": (
        lambda it: (it / WEIGHTS).rename(it / "mine.safetensors"),
        r"there is no model\.safetensors, only mine\.safetensors, which transformers does not look for",
    ),
    "weights: a file missing": (
        lambda it: sharded(it, {"lm_head.weight": "a.safetensors", "model.norm.weight": "b.safetensors"}),
        r"of the 2 files of model\.safetensors\.index\.json 1 is missing, b\.safetensors",
    ),
    "weights: the wrong file": (
        lambda it: sharded(it, {"no.such.tensor": "a.safetensors"}),
        r"a\.safetensors of .* is not the one of its index: it lacks 1 tensors, no\.such\.tensor",
    ),
    "weights: a broken index": (
        lambda it: (sharded(it, {}), (it / f"{WEIGHTS}.index.json").write_text('{"weight_map": {')),
        r"model\.safetensors\.index\.json of .* is not valid JSON \(.*line 1\)",
    ),
    "weights: code": (lambda it: pickled(it, Code(), False), r"pytorch_model\.bin is a pickle with more in it"),
    "weights: code in a zip": (
        lambda it: pickled(it, {"a": Code()}, True),
        r"pytorch_model\.bin is a pickle with more",
    ),
    "weights: a text called .bin": (
        lambda it: ((it / WEIGHTS).unlink(), (it / "pytorch_model.bin").write_text("hello")),
        r"pytorch_model\.bin of .* is not a file of PyTorch's",
    ),
    "weights: of a wider model": (
        lambda it: change(it / "config.json", hidden_size=64),
        r"of another model than its config\.json: lm_head\.weight is 96 x 32, and the config makes it 96 x 64 \(",
    ),
    "weights: of a deeper model": (
        lambda it: change(it / "config.json", num_hidden_layers=1),
        "they have a layer 1, counted from 0, and the config has 1 layers",
    ),
    "an adapter": (adapter, r"model\.safetensors\. It holds a LoRA adapter for some/base, .* merge it into its base"),
    "an adapter without config": (
        lambda it: (adapter(it), (it / "config.json").unlink()),
        r"it has no config\.json\. It holds a LoRA adapter for some/base",
    ),
    "GGUF": (gguf, r"It holds GGUF, llama\.cpp's format: give the file itself, as .*model\.Q4_1\.gguf"),
    "GGUF without config": (lambda it: (gguf(it), (it / "config.json").unlink()), "no config.json. It holds GGUF"),
    "GPTQ": (
        lambda it: change(it / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        r"its weights are quantised \(gptq\), which is not implemented: give the model that they were made of",
    ),
    "AWQ": (
        lambda it: change(it / "config.json", quantization_config={"quant_method": "awq", "bits": 4}),
        r"its weights are quantised \(awq\)",
    ),
    "GPTQ that config.json does not name": (
        lambda it: renamed(it, ".up_proj.weight", ".up_proj.qweight"),
        r"model\.safetensors of .* is quantised \(model\.layers\.0\.mlp\.up_proj\.qweight is there",
    ),
    "weights: numbers of eight bits": (
        lambda it: retyped(it, torch.float8_e4m3fn),
        r"is quantised \(.*_proj\.weight is there, of type F8_E4M3\)",
    ),
    "weights: not numbers": (
        lambda it: retyped(it, torch.float32, float("nan")),
        "logits that are not finite in float32; its weights are damaged",
    ),
    "weights: half a pickle": (
        lambda it: (
            pickled(it, {"a": torch.ones(99)}, True),
            os.truncate(it / "pytorch_model.bin", 400),
        ),
        r"\(pytorch_model\.bin\) cannot be read: ",
    ),
    "the makers' own files": (
        lambda it: ((it / "config.json").unlink(), (it / "params.json").write_text("{}")),
        "in their makers' own format",
    ),
    "one folder too high": (
        lambda it: (families.write_config(it / "checkpoint-9", "llama"), (it / "config.json").unlink()),
        r"There is one below it: .*checkpoint-9",
    ),
    "config: cut": (lambda it: (it / "config.json").write_text('{"model_type":'), r"config\.json of .* not valid JSON"),
    "config: empty": (lambda it: (it / "config.json").write_text(""), r"config\.json of .* is empty"),
    "config: a pointer": (lambda it: (it / "config.json").write_text(POINTER), r"config\.json of .* Git LFS pointer"),
    "config: a list": (lambda it: (it / "config.json").write_text("[1]"), "holds list, not a JSON object"),
    "config: not text": (lambda it: (it / "config.json").write_bytes(b"\x80\x81"), r"is not text \(UTF-8\)"),
    "config: no type": (lambda it: (it / "config.json").write_text("{}"), "names no model_type"),
    "config: text for a number": (
        lambda it: change(it / "config.json", hidden_size="big"),
        r"config\.json of .* cannot be used: .*'hidden_size'.* expected int, got str",
    ),
    "config: no heads": (lambda it: change(it / "config.json", num_attention_heads=0), r"config\.json of .* cannot be"),
    "config: no layers": (lambda it: change(it / "config.json", num_hidden_layers=-2), "num_hidden_layers is -2"),
    "config: an odd rope": (
        lambda it: change(it / "config.json", rope_parameters={"rope_type": "odd", "rope_theta": 1e4}),
        r"config\.json of .* cannot be used: 'odd' is not known",
    ),
    "config: no context": (lambda it: change(it / "config.json", max_position_embeddings=0), "embeddings is 0"),
    "generation config: text for an id": (
        lambda it: (it / "generation_config.json").write_text('{"eos_token_id": "abc"}'),
        "has 'abc' where ids of tokens belong",
    ),
    "generation config: a negative temperature": (
        lambda it: (it / "generation_config.json").write_text('{"temperature": -1, "do_sample": true}'),
        r"generation_config\.json of .* cannot be used: temperature=-1",
    ),
    "template: a pointer": (
        lambda it: ((it / "tokenizer.model").write_bytes(b"x"), (it / "chat_template.jinja").write_text(POINTER)),
        r"chat_template\.jinja of .* Git LFS pointer",
    ),
    "tokenizer: another library's": (
        lambda it: (it / "tekken.json").write_text("{}"),
        r"is tekken\.json, which is not",
    ),
    "config: code of its own": (
        lambda it: change(it / "config.json", model_type="mine", auto_map={"AutoConfig": "a.B"}),
        "it has code of its own, which trust_remote_code runs",
    ),
    "generation config: cut": (
        lambda it: (it / "generation_config.json").write_text("{"),
        r"generation_config\.json of .* is not valid JSON",
    ),
    "tokenizer: cut": (lambda it: (it / "tokenizer.json").write_text('{"a":'), r"tokenizer\.json of .* not valid JSON"),
    "tokenizer: a pointer": (lambda it: (it / "tokenizer.json").write_text(POINTER), r"tokenizer\.json .* LFS pointer"),
    "tokenizer: another pointer": (
        lambda it: (it / "tokenizer.model").write_text(POINTER),
        r"tokenizer\.model .* LFS pointer",
    ),
    "tokenizer: noise": (
        lambda it: (it / "tokenizer.model").write_bytes(b"\xff" * 99),
        "tokenizer of .* cannot be read",
    ),
    "tokenizer: no vocabulary": (
        lambda it: (it / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}'),
        r"has no vocabulary: there is a tokenizer_config\.json, and none of tokenizer\.json",
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.write(tmp_path_factory.mktemp("llama"), "llama")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_is_told_in_one_line(
    kind: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in good.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    breaking, why = BROKEN[kind]
    breaking(folder)
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    with pytest.raises((ModelNotFoundError, RefusedModelError), match=why) as told:
        load_model(folder, device="cpu", dtype="float32", native="off")
    assert len(str(told.value).splitlines()) == 1 and str(folder) in str(told.value)
    assert capfd.readouterr() == ("", ""), "nothing else is said"
    assert [it.name for it in tmp_path.iterdir()] == ["model"], "no code of a pickle ran"


def test_what_is_not_even_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ModelNotFoundError, match=r"model\.bin is a file, not a folder; give the folder of a model"):
        load_model(tmp_path / "model.bin")
    (tmp_path / "new").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"it has no config\.json, it is empty"):
        load_model(tmp_path / "new")


def test_a_folder_that_may_not_be_read(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse(self: Path, *args: Any, **more: Any) -> Any:
        if self.name == WEIGHTS:
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors of .* is not readable: Permission denied"):
        load_model(good, device="cpu", dtype="float32", native="off")


def test_weights_of_pytorch_s_own_format_are_read(good: Path, tmp_path: Path) -> None:
    torch.save(load_file(good / WEIGHTS), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((good / "config.json").read_text())
    loaded, same = (load_model(it, device="cpu", dtype="float32", native="off") for it in (tmp_path, good))
    assert torch.equal(loaded.module.lm_head.weight, same.module.lm_head.weight)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_tokenizer_of_sentencepiece_alone_is_read(kind: str, good: Path, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat\nthe dog saw the cat\na true story of a mat on a mat\n" * 5)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "tokenizer"), model_type=kind, vocab_size=320,
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    own = sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    families.write_config(tmp_path, "llama", vocab_size=own.get_piece_size())
    loaded = load_model(tmp_path, load_format="dummy", device="cpu", dtype="float32", native="off")
    said = "the cat saw 你 and é"
    assert loaded.tokenizer.encode(said, add_special_tokens=False) == own.encode(said)
    assert loaded.tokenizer.decode(own.encode(said)) == said


def test_a_tokenizer_of_sentencepiece_without_the_library(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    families.write_config(tmp_path, "llama")
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05")
    monkeypatch.setattr("fastserve.backends.torch.checkpoint._installed", lambda module: module != "sentencepiece")
    with pytest.raises(ModelNotFoundError, match="is a SentencePiece model, and sentencepiece cannot be imported: "):
        load_model(tmp_path, load_format="dummy")


def test_a_model_larger_than_the_memory_is_told_before_it_is_read(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastserve.__main__ import main

    monkeypatch.setattr("fastserve.backends.torch.checkpoint.free_host_memory", lambda: 1000)
    with pytest.raises(MemoryError, match=r"^The weights of .* take 0\.0 GiB in float32, and 0\.0 GiB are free\.$"):
        load_model(good, device="cpu", dtype="float32")
    assert main(["generate", "--model", str(good), "--device", "cpu", "--prompt", "1", "--token-ids"]) == 2
    assert "generate: error: The weights of" in capsys.readouterr().err
