"""What single tokens are in a text: exact pieces, bytes and offsets, for each kind of tokenizer."""

import random
from typing import Any

import pytest

from fastserve.engine.byte_tokenizer import ByteTokenizer
from fastserve.engine.detokenizer import Detokenizer, TokenDecoder
from fastserve.engine.token_text import LETTERS, Offsets, TokenText

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers  # noqa: E402

SAID = ["the cat sat on the mat", "ein Löwe, 你好 und 😀!", "  two  spaces\n\tand a tab"]


def fast(made: Tokenizer) -> Any:
    made.add_special_tokens([AddedToken("</s>", special=True)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")


def metaspace() -> Any:
    """SentencePiece's manner, as make_models.py of the cases has it: no byte fallback."""
    words = ["▁", "▁the", "▁cat", "the", "cat", "a", "▁a", "s", "t", "▁Lö", "你", "😀"]
    made = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="▁"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    return fast(made)


def fallback() -> Any:
    """Llama 2's: a space begins a word, a byte that no piece has is <0x..>, the first space is stripped."""
    words = {f"<0x{byte:02X}>": byte for byte in range(256)}
    for word in ["▁", "▁the", "the", "▁c", "c", "at", "a", "▁a", "A", "\n", "\ufffd"]:
        words[word] = len(words)
    made = Tokenizer(models.BPE(words, [("▁", "c"), ("▁", "a")], byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return fast(made)


def byte_level() -> Any:
    words = dict(LETTERS)
    for word in ["Ġ" + "the", "ĠÃ", "ðŁ", "ĺĢ"]:
        words[word] = len(words)
    made = Tokenizer(models.BPE(words, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return fast(made)


def word_piece() -> Any:
    words = ["[UNK]", "the", "cat", "##s", "##a", "a", ".", "你"]
    made = Tokenizer(models.WordPiece({word: id for id, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return fast(made)


KINDS = {
    "metaspace": metaspace, "byte fallback": fallback, "byte level": byte_level, "word pieces": word_piece,
    "bytes": ByteTokenizer,
}  # fmt: skip


def text_of(tokenizer: Any, ids: list[int]) -> str:
    """As the engine emits it behind a prompt, special tokens included."""
    prompt = tokenizer.encode("a", add_special_tokens=False)
    words = Detokenizer(TokenDecoder(tokenizer), prompt=prompt, skip_special_tokens=False)
    return "".join(map(words.add, ids)) + words.flush()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "word pieces"])
def test_the_bytes_of_all_tokens_are_the_text(kind: str) -> None:
    tokenizer = KINDS[kind]()
    pieces = TokenText(tokenizer)
    dice = random.Random(0)
    plain = [id for id in range(len(tokenizer)) if id not in pieces.special]
    rows = [tokenizer.encode(said, add_special_tokens=False) for said in SAID]
    rows += [[dice.choice(plain) for _ in range(8)] for _ in range(200)]
    valid = 0
    for ids in rows:
        text = text_of(tokenizer, ids)
        data = b"".join(map(pieces.data, ids))
        offsets = Offsets(pieces)
        begins = [offsets.next(pieces.data(id)) for id in ids]
        if kind != "byte fallback" or "\ufffd" not in text:  # whose decoder gives up on valid bytes beside others
            assert data.decode(errors="replace") == text
        if "\ufffd" not in text or kind != "byte fallback":
            valid += 1
            for id, begin in zip(ids, begins, strict=True):
                if "\\x" not in pieces.text(id):
                    assert text[begin : begin + len(pieces.text(id))] == pieces.text(id)
    assert valid >= 3


def test_a_space_before_a_word_stays_and_tells_tokens_apart() -> None:
    for tokenizer in (metaspace(), fallback()):
        pieces = TokenText(tokenizer)
        names = tokenizer.get_vocab()
        assert tokenizer.decode([names["▁the"]]) == "the"  # alone they are the same
        assert (pieces.text(names["▁the"]), pieces.text(names["the"])) == (" the", "the")
        assert pieces.text(names["▁"]) == " "
    assert TokenText(word_piece()).text(3) == "s"


def test_half_a_character_is_its_bytes_and_no_replacement() -> None:
    level, levels = byte_level(), TokenText(byte_level())
    names = level.get_vocab()
    assert [levels.data(names[name]) for name in ("ĠÃ", "ðŁ", "ĺĢ", "Ġthe")] == [
        b" \xc3", b"\xf0\x9f", b"\x98\x80", b" the",
    ]  # fmt: skip
    assert levels.text(names["ðŁ"]) == r"\xf0\x9f"
    offsets = Offsets(levels)
    assert [offsets.next(levels.data(names[name])) for name in ("Ġthe", "ðŁ", "ĺĢ", "a")] == [0, 4, 4, 5]
    back = TokenText(fallback())
    assert back.data(0xE4) == b"\xe4" and back.text(0xE4) == r"\xe4"
    assert back.data(0x0A) == b"\n"
    assert back.data(fallback().get_vocab()["\ufffd"]) == "\ufffd".encode()  # a token that is this very character
    assert TokenText(ByteTokenizer()).data(0xE4) == b"\xe4"


def test_bytes_that_are_no_character_count_as_the_decoder_shows_them() -> None:
    """SentencePiece's decoder shows three of them for three bytes, Python's and byte-level ones one."""
    for tokenizer, shown in ((fallback(), 3), (byte_level(), 1), (ByteTokenizer(), 1)):
        pieces = TokenText(tokenizer)
        at = {pieces.data(id): id for id in range(len(tokenizer))}
        ids = [at[it] for it in (b"\xf0", b"\x9f", b"\x98", b"a", b"a")]
        offsets = Offsets(pieces)
        begins = [offsets.next(pieces.data(id)) for id in ids]
        assert text_of(tokenizer, ids) == shown * "\ufffd" + "aa"
        assert begins[-1] == shown + 1


def test_special_tokens_and_ids_without_a_token() -> None:
    for make in (metaspace, fallback, byte_level):
        pieces = TokenText(make())
        assert pieces.text(make().eos_token_id) == "</s>"
        assert pieces.data(100_000) == b""  # a model may have more logits than its tokenizer has tokens
