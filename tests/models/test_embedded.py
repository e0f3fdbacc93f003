"""The embedded model: the same bytes everywhere, made once, loadable by transformers, one character a token."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fastserve.engine.detokenizer import Detokenizer, TokenDecoder  # noqa: E402  (transformers first, or skip)
from fastserve.models.embedded import EMITTED, SPECIAL, VERSION, make_embedded  # noqa: E402

WEIGHTS_OF_VERSION = {1: "9c684af5a690151e991763934fdb461d979c5f5c55c65b072e3a0651bdfd41a4"}
"""SHA-256 of model.safetensors. A change of the weights needs a new version, or caches go on serving the old ones."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_embedded(tmp_path_factory.mktemp("cache") / "model")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_its_weights_are_those_of_its_version(folder: Path) -> None:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == WEIGHTS_OF_VERSION[VERSION]


def test_its_size(model: Any) -> None:
    assert 10e6 < sum(weight.numel() for weight in model.parameters()) < 20e6
    assert model.config.max_position_embeddings >= 2048
    assert model.config.vocab_size == 256 + len(SPECIAL)


def test_it_is_the_same_in_every_dtype(model: Any) -> None:
    for weight in model.parameters():
        for dtype in (torch.bfloat16, torch.float16):
            assert torch.equal(weight.to(dtype).float(), weight)


# -- the tokenizer ---------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=50).filter(lambda text: not any(token in text for token in SPECIAL)))
def test_a_token_is_a_byte(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 255 + len(SPECIAL)), max_size=50), skip=st.booleans())
def test_pieces_add_up_to_what_the_tokenizer_says(tokenizer: Any, ids: list[int], skip: bool) -> None:
    detokeniser = Detokenizer(TokenDecoder(tokenizer), skip_special_tokens=skip)
    pieces = [detokeniser.add(token) for token in ids] + [detokeniser.flush()]
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_special_tokens_and_the_chat_template(tokenizer: Any) -> None:
    assert len(tokenizer) == 264
    assert tokenizer.eos_token == "<|end|>" and tokenizer.eos_token_id == 257
    assert tokenizer.convert_ids_to_tokens(list(range(256, 264))) == list(SPECIAL)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>"
    ids = tokenizer.encode(text)
    assert ids == [259, *b"Be brief.", 257, 260, *b"Hi", 257, 261]
    stranger = tokenizer.apply_chat_template([{"role": "developer", "content": "x"}], tokenize=False)
    assert stranger == "<|user|>x<|end|>"


# -- what it says ----------------------------------------------------------------------------------------------


def generate(model: Any, tokenizer: Any, prompt: str, **wishes: Any) -> list[int]:
    ids = torch.tensor([tokenizer.encode(prompt)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=100, **wishes)
    return list(out[0, ids.shape[1] :].tolist())


@pytest.mark.usefixtures("one_thread")
def test_a_greedy_text_does_not_go_round_in_circles(model: Any, tokenizer: Any) -> None:
    for prompt in ("Hello", "What is a scheduler?\n"):
        ids = generate(model, tokenizer, prompt, do_sample=False, eos_token_id=None)
        assert len(ids) == 100 and set(ids) <= set(EMITTED)
        assert len(tokenizer.decode(ids)) == 100
        runs = {tuple(ids[i : i + 5]) for i in range(96)}
        assert len(runs) > 0.7 * 96
        assert len(set(ids)) >= 10


@pytest.mark.usefixtures("one_thread")
def test_drawn_texts_differ_and_end_at_a_newline_some_time(model: Any, tokenizer: Any) -> None:
    torch.manual_seed(0)
    texts = []
    for _ in range(4):
        ids = generate(model, tokenizer, "Once upon a time")
        assert set(ids) <= set(EMITTED)
        assert ids[-1] == ord("\n") or len(ids) == 100
        assert ord("\n") not in ids[:-1]
        texts.append(tokenizer.decode(ids))
    assert len(set(texts)) == 4
    assert any(text.endswith("\n") for text in texts)
    assert max(map(len, texts)) > 40


# -- how it is made --------------------------------------------------------------------------------------------


def test_it_is_made_once(tmp_path: Path) -> None:
    made = make_embedded(tmp_path / "m")
    before = {file.name: file.stat().st_mtime_ns for file in made.iterdir()}
    assert make_embedded(tmp_path / "m") == made
    assert {file.name: file.stat().st_mtime_ns for file in made.iterdir()} == before
    assert os.listdir(tmp_path) == ["m"]


def test_it_goes_into_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTSERVE_CACHE", str(tmp_path / "own"))
    assert make_embedded() == tmp_path / "own" / f"embedded-{VERSION}"


@pytest.mark.parametrize("harm", ["cut", "gone", "garbled", "empty"])
def test_a_damaged_one_is_made_anew(tmp_path: Path, harm: str) -> None:
    made = make_embedded(tmp_path / "m")
    whole = (made / "model.safetensors").read_bytes()
    if harm == "cut":
        (made / "model.safetensors").write_bytes(whole[:-1])
    elif harm == "gone":
        (made / "tokenizer.json").unlink()
    elif harm == "garbled":
        (made / "config.json").write_text("{")
    else:
        for file in made.iterdir():
            file.unlink()
    assert make_embedded(tmp_path / "m") == made
    assert (made / "model.safetensors").read_bytes() == whole
    assert json.loads((made / "config.json").read_text())["model_type"] == "llama"
    assert os.listdir(tmp_path) == ["m"]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="other files"):
        make_embedded(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        make_embedded(tmp_path / "file" / "m")
    assert sorted(os.listdir(tmp_path)) == ["file", "mine.txt"]


def test_processes_may_make_it_at_once(tmp_path: Path) -> None:
    code = f"from fastserve.models.embedded import make_embedded; make_embedded({str(tmp_path / 'm')!r})"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert os.listdir(tmp_path) == ["m"]
    digest = hashlib.sha256((tmp_path / "m" / "model.safetensors").read_bytes()).hexdigest()
    assert digest == WEIGHTS_OF_VERSION[VERSION]
