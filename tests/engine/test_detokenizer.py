"""Detokenizer: pieces add up to what the tokenizer says of the whole, characters stay whole, stop strings are cut."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.engine.byte_tokenizer import EOS, ByteTokenizer
from fastserve.engine.detokenizer import REPLACEMENT, Detokenizer, StopStrings, TokenDecoder
from fastserve.engine.params import SamplingParams

TEXTS = (
    "the cat sat on the mat, the hat; a rat ran at that cat",
    "größe über Straße, naïve café, 你好世界 今天天气很好, привет мир",
    "🙂🚀👩‍👩‍👧 emoji, tabs\tand\nnewlines\n\n  two spaces",
)


class Bare:
    """A tokenizer of the `tokenizers` package with the few names that transformers' wrapper has."""

    def __init__(self, backend: Any, special: frozenset[int] = frozenset()) -> None:
        self.backend_tokenizer = backend
        self.all_special_ids = sorted(special)
        self.size = backend.get_vocab_size()

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:
        return str(self.backend_tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens))

    def encode(self, text: str) -> list[int]:
        return list(self.backend_tokenizer.encode(text, add_special_tokens=False).ids)


class Bytes(ByteTokenizer):
    size = 257

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False, **_: Any) -> str:
        """As Hugging Face's: hidden tokens are dropped first, so that they part no character."""
        return super().decode([id for id in token_ids if id != EOS or not skip_special_tokens])


@cache
def tokenizer_of(kind: str) -> Any:
    if kind == "bytes":
        return Bytes()
    tokenizers = pytest.importorskip("tokenizers")
    decoders, pre, models, trainers = (
        getattr(tokenizers, name) for name in ("decoders", "pre_tokenizers", "models", "trainers")
    )
    if kind == "bpe":  # as GPT-2, Qwen and Llama 3 have it
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        decoder = pre.ByteLevel.alphabet()
        backend.train_from_iterator(
            TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=decoder, special_tokens=["<end>"])
        )
        return Bare(backend, frozenset({backend.token_to_id("<end>")}))
    if kind == "unigram":  # as T5 has it: a space is part of the word, the first one is dropped
        backend = tokenizers.Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre.Metaspace()
        backend.decoder = decoders.Metaspace()
        backend.train_from_iterator(
            TEXTS, trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>"], unk_token="<unk>")
        )
        return Bare(backend, frozenset({backend.token_to_id("<unk>")}))
    assert kind == "fallback"  # as Llama 2 and Mistral have it: bytes for characters that are no tokens
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", *"abcdefghijklmnopqrstuvwxyz,;", "▁the", "▁cat", "at"]
    backend = tokenizers.Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(["<unk>", *pieces])}, [("a", "t")], byte_fallback=True,
                   unk_token="<unk>", fuse_unk=True)
    )  # fmt: skip
    backend.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Bare(backend)


KINDS = ("bytes", "bpe", "unigram", "fallback")


def whole(tokenizer: Any, ids: list[int], skip: bool = True) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=skip))


def speak(detokeniser: Detokenizer, ids: list[int]) -> list[str]:
    pieces = []
    for token in ids:
        pieces.append(detokeniser.add(token))
        if detokeniser.stopped:
            break
    return [*pieces, detokeniser.flush()]


# -- text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_pieces_of_a_text_add_up_to_it_and_no_character_is_halved(kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(kind)
    text = data.draw(st.one_of(st.text(max_size=30), st.lists(st.sampled_from(TEXTS)).map(" ".join)))
    ids = tokenizer.encode(text)
    pieces = speak(Detokenizer(TokenDecoder(tokenizer)), ids)
    assert "".join(pieces) == whole(tokenizer, ids)
    if REPLACEMENT not in text and kind != "unigram":
        assert REPLACEMENT not in "".join(pieces)
        assert pieces[-1] == ""  # nothing is left for the end


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram"])
@pytest.mark.parametrize("skip", [True, False])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_pieces_of_any_tokens_add_up_to_what_the_tokenizer_says(kind: str, skip: bool, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(kind)
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=60))
    pieces = speak(Detokenizer(TokenDecoder(tokenizer), skip_special_tokens=skip), ids)
    assert "".join(pieces) == whole(tokenizer, ids, skip)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_behind_a_prompt_comes_what_the_whole_has_after_it(kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(kind)
    words = st.lists(st.sampled_from(["the", "cat", "at", "über", "你好", "🙂"]), min_size=1, max_size=8).map(" ".join)
    ids = tokenizer.encode(data.draw(words))
    cut = data.draw(st.integers(0, len(ids)))
    prompt, output = ids[:cut], ids[cut:]
    ends = (whole(tokenizer, prompt[:end]) for end in range(cut, -1, -1))
    before = next(text for text in ends if REPLACEMENT not in text)  # half a character at its end is the output's
    pieces = speak(Detokenizer(TokenDecoder(tokenizer), prompt=prompt), output)
    assert before + "".join(pieces) == whole(tokenizer, ids) or not output


def test_a_character_waits_for_its_last_byte() -> None:
    ids = list("a€b".encode())
    assert speak(Detokenizer(TokenDecoder(Bytes())), ids) == ["a", "", "", "€", "b", ""]
    assert speak(Detokenizer(TokenDecoder(Bytes())), ids[:3]) == ["a", "", "", REPLACEMENT]


def test_what_comes_before_half_a_character_does_not_wait() -> None:
    tokenizer = tokenizer_of("bpe")
    ids = tokenizer.encode("the ")
    first = tokenizer.encode("€")[0]
    detokeniser = Detokenizer(TokenDecoder(tokenizer))
    assert "".join(detokeniser.add(token) for token in [*ids, first]) == "the "


def test_a_special_token_amid_a_character_does_not_split_it() -> None:
    tokenizer = tokenizer_of("bpe")
    [end] = tokenizer.all_special_ids
    head, *rest = tokenizer.encode("€")
    ids = [head, end, *rest]
    assert "".join(speak(Detokenizer(TokenDecoder(tokenizer)), ids)) == whole(tokenizer, ids) == "€"


def test_the_first_word_keeps_its_space_behind_a_prompt_only() -> None:
    tokenizer = tokenizer_of("fallback")
    the, cat = (tokenizer.backend_tokenizer.token_to_id(word) for word in ("▁the", "▁cat"))
    assert "".join(speak(Detokenizer(TokenDecoder(tokenizer)), [cat])) == "cat"
    assert "".join(speak(Detokenizer(TokenDecoder(tokenizer), prompt=[the]), [cat])) == " cat"


class Counting(Bytes):
    """Counts the tokens that it has decoded."""

    decoded = 0

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False, **_: Any) -> str:
        self.decoded += len(token_ids)
        return super().decode(token_ids, skip_special_tokens=skip_special_tokens)


@pytest.mark.parametrize("ids", [[97], [0x80], [0xE4, 0xBD], [300], [97, 300, 0xF0]], ids=str)
def test_the_cost_of_a_token_does_not_grow(ids: list[int]) -> None:
    tokenizer = Counting()
    pieces = speak(Detokenizer(TokenDecoder(tokenizer), skip_special_tokens=False), ids * 2_000)
    assert tokenizer.decoded < 60 * 2_000 * len(ids)
    assert "".join(pieces) == whole(tokenizer, ids * 2_000, skip=False)


def test_bytes_that_are_no_character_come_out_before_the_end() -> None:
    detokeniser = Detokenizer(TokenDecoder(Bytes()))
    said = "".join(detokeniser.add(0x80) for _ in range(100))
    assert len(said) > 70 and set(said) == {REPLACEMENT}


# -- stop strings ----------------------------------------------------------------------------------------------


def first_stop(text: str, stops: list[str]) -> tuple[int, int] | None:
    """Where the first stop string that becomes complete starts and ends, looked for one character at a time."""
    for end in range(1, len(text) + 1):
        for start in range(end):
            if text[start:end] in stops:
                return start, end
    return None


ALPHABET = st.text("ab€", max_size=40)
STOPS = st.lists(st.text("ab€", min_size=1, max_size=4), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(text=ALPHABET, stops=STOPS, keep=st.booleans(), kind=st.sampled_from(["bytes", "bpe"]))
def test_text_is_cut_at_the_first_stop_string(text: str, stops: list[str], keep: bool, kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.encode(text)
    detokeniser = Detokenizer(TokenDecoder(tokenizer), stop=stops, include_stop=keep)
    said = "".join(speak(detokeniser, ids))
    place = first_stop(text, stops)
    assert detokeniser.stopped == (place is not None)
    if place is None:
        assert said == text
    else:
        assert said == text[: place[keep]]
        assert detokeniser.stop == text[place[0] : place[1]]
        assert detokeniser.add(ids[0]) == "" and detokeniser.flush() == ""


@settings(max_examples=100, deadline=None)
@given(text=st.text("ab", max_size=30), stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1))
def test_only_what_may_become_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    detokeniser = Detokenizer(TokenDecoder(Bytes()), stop=stops)
    said = ""
    for count, token in enumerate(text.encode(), 1):
        said += detokeniser.add(token)
        if detokeniser.stopped:
            return
        held = text[len(said) : count]
        beginnings = {stop[:length] for stop in stops for length in range(len(stop))}
        assert held == max((text[i:count] for i in range(count + 1) if text[i:count] in beginnings), key=len)


@settings(max_examples=100, deadline=None)
@given(text=st.text("ab", max_size=20), stop=st.text("ab", min_size=1, max_size=3), least=st.integers(0, 20))
def test_stop_strings_complete_before_min_tokens_are_text(text: str, stop: str, least: int) -> None:
    detokeniser = Detokenizer(TokenDecoder(Bytes()), stop=[stop], min_tokens=least)
    said = "".join(speak(detokeniser, list(text.encode())))
    ends = [end for end in range(max(1, least), len(text) + 1) if text[:end].endswith(stop)]
    assert said == (text[: ends[0] - len(stop)] if ends else text)


def test_a_stop_string_may_begin_before_min_tokens() -> None:
    stops = StopStrings(["lo w"])
    assert stops.pass_on("hello", armed=False) == "hel"
    assert stops.pass_on(" world, hello world") == ""
    assert stops.found == "lo w"
    assert stops.pass_on("more") == stops.flush() == ""


def test_a_stop_string_that_was_complete_before_min_tokens_stays_text() -> None:
    stops = StopStrings(["abc", "b"])
    assert stops.pass_on("ab", armed=False) == ""
    assert stops.pass_on("x") == "abx"
    assert stops.found is None


def test_what_was_held_back_comes_at_the_end() -> None:
    assert speak(Detokenizer(TokenDecoder(Bytes()), stop=["END"]), list(b"aEN")) == ["a", "", "", "EN"]


# -- the rest of the engine ------------------------------------------------------------------------------------


def test_a_voice_has_the_wishes_of_the_parameters() -> None:
    decoder = TokenDecoder(Bytes())
    params = SamplingParams(stop="b", include_stop=True, min_tokens=2, skip_special_tokens=False)
    assert speak(decoder.detokenizer(params), [*b"b", EOS, *b"abc"]) == ["b", "<eos>", "a", "b", ""]
    assert speak(decoder.detokenizer(SamplingParams()), [EOS, 97]) == ["", "a", ""]


def test_every_added_token_that_is_special_is_hidden() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "word": 1}, "<unk>"))
    backend.add_special_tokens([tokenizers.AddedToken("<turn>", special=True)])
    backend.add_tokens([tokenizers.AddedToken("plain", special=False)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    decoder = TokenDecoder(tokenizer)
    assert 2 in decoder.special and 3 not in decoder.special
    ids = [1, 2, 3]
    said = "".join(speak(Detokenizer(decoder), ids))
    assert said == tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == "word plain"


def test_no_torch_is_imported() -> None:
    heavy = "torch", "numpy", "transformers"
    code = f"import sys, fastserve.engine.detokenizer; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
