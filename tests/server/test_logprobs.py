"""Log-probabilities of a model with SentencePiece's manner of spaces and bytes: texts, offsets and bytes are exact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.server.conftest import Serve
from tests.server.sse import chunks

pytestmark = pytest.mark.anyio

WORDS = ["▁", "▁the", "the", "▁a", "a", "<0xC3>", "<0xA4>", "<0xF0>", "<0x61>", "ä"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    from tests.backends.torch import families

    folder = tmp_path_factory.mktemp("pieces")
    made = Tokenizer(models.BPE({word: id for id, word in enumerate(WORDS)}, [], byte_fallback=True))
    made.add_special_tokens([AddedToken("</s>", special=True), AddedToken("<sep>", special=True)])
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>").save_pretrained(folder)
    families.write(folder, "llama", vocab_size=len(made.get_vocab()), eos_token_id=10)
    return folder


ASKED = {"prompt": [3, 1], "max_tokens": 40, "logprobs": 12, "seed": 3, "temperature": 1.5, "ignore_eos": True}


@pytest.mark.parametrize("shown", [True, False])
async def test_pieces_offsets_and_bytes(serve: Serve, folder: Path, shown: bool) -> None:
    """Special tokens are in the lists; the text goes on behind them as if they were not there, unless it shows them."""
    from fastserve.engine import Engine

    with Engine.from_pretrained(str(folder), device="cpu", dtype="float32", native="off", kv_tokens=2048) as engine:
        async with serve(engine) as client:
            fields = {**ASKED, "skip_special_tokens": not shown}
            choice = (await client.post("/v1/completions", json=fields)).json()["choices"][0]
            found, text = choice["logprobs"], choice["text"]
            assert {" the", " a", "a", "</s>"} <= set(found["tokens"])
            for token, at in zip(found["tokens"], found["text_offset"], strict=True):
                if "\\x" not in token and (shown or token not in ("</s>", "<sep>")):
                    assert text[at : at + len(token)] in (token, len(token) * "\ufffd")  # beside half a character
            for row in found["top_logprobs"]:
                assert len(row) == 12  # all tokens of the model, and no two of them met
                assert {" the", "the", " a", "a", r"\xc3", r"\xf0"} < set(row)
            streamed = chunks((await client.post("/v1/completions", json={**fields, "stream": True})).text)
            pieces = [chunk["choices"][0]["logprobs"] for chunk in streamed]
            assert [piece["text_offset"][0] for piece in pieces] == found["text_offset"]
            chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 30, "seed": 5, "ignore_eos": True}
            chat |= {"logprobs": True, "top_logprobs": 12, "temperature": 1.5, "skip_special_tokens": not shown}
            answer = (await client.post("/v1/chat/completions", json=chat)).json()["choices"][0]
            said = answer["logprobs"]["content"]
            left = [it for it in said if shown or it["token"] not in ("</s>", "<sep>")]
            data = b"".join(bytes(it["bytes"]) for it in left)
            if "\ufffd" not in answer["message"]["content"]:
                assert data.decode() == answer["message"]["content"]
            halves = {it["token"]: it["bytes"] for row in said for it in row["top_logprobs"]}
            assert halves[r"\xc3"] == [0xC3] and halves["ä"] == list("ä".encode()) and json.dumps(halves)
