"""What an output may be: words spelled as tokens, masks token by token, and what a model cannot do."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.engine import Engine
from fastserve.engine.byte_tokenizer import EOS, ByteTokenizer
from fastserve.engine.constraints import Constraint, ConstraintError, Speller, complete, ended
from fastserve.engine.detokenizer import TokenDecoder
from fastserve.engine.model_info import ModelInfo
from fastserve.engine.params import SamplingParams


def info(tokenizer: Any, size: int, **more: Any) -> ModelInfo:
    return ModelInfo("m", tokenizer, 64, size, frozenset({EOS}), **more)


def bytes_spelled(**fields: Any) -> SamplingParams:
    tokenizer = ByteTokenizer()
    return Speller(info(tokenizer, 257), TokenDecoder(tokenizer)).spelled(SamplingParams(**fields), [5])


def test_words_become_tokens() -> None:
    params = bytes_spelled(bad_words=["ab", " c "], bad_token_ids=[[1, 2]])
    assert params.bad_words == ()
    assert params.bad_token_ids == ((1, 2), (97, 98), (32, 97, 98), (99,), (32, 99))
    params = bytes_spelled(choices=["ja", "näh"], choice_token_ids=[[5]])
    assert params.choices == () and params.choice_token_ids == ((5,), (106, 97), tuple("näh".encode()))


def test_choices_have_no_space_that_a_tokenizer_adds() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    vocabulary = {token: id for id, token in enumerate(["<unk>", "▁", "▁yes", "yes", "no", "<0x0A>", "\n", "n", "o"])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = tokenizers.decoders.Metaspace(prepend_scheme="first")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    speller = Speller(info(fast, len(vocabulary)), TokenDecoder(fast))
    found = speller.spelled(SamplingParams(choices=["no"]), [2])
    assert fast.decode([2, *found.choice_token_ids[0]]).endswith("yesno")
    with pytest.raises(ConstraintError, match="'q' cannot be written") as caught:
        speller.spelled(SamplingParams(choices=["q"]), [2])
    assert caught.value.param == "choices"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"allowed_token_ids": [300]}, "allowed_token_ids: 300 is not a token of model m: ids go from 0 to 256"),
        ({"logit_bias": {300: 1}}, "logit_bias: 300 is not a token"),
        ({"bad_token_ids": [[1, 300]]}, "bad_token_ids: 300 is not a token"),
        ({"choice_token_ids": [[300]]}, "choice_token_ids: 300 is not a token"),
        ({"allowed_token_ids": [7, 8]}, "allowed_token_ids: model m never emits any of them"),
        ({"choice_token_ids": [[1, 8]]}, "choices: model m never emits token 8"),
        ({"bad_words": ["x"]}, "bad_words: they need text, and model m has no tokenizer: give bad_token_ids"),
        ({"choices": ["x"]}, "choices: they need text, and model m has no tokenizer: give choice_token_ids"),
        ({"choice_token_ids": [[1], [1, EOS]]}, "no end token to tell them apart"),
        (
            {"choice_token_ids": [[1, 2], [3, 1, 2]], "bad_token_ids": [[1, 2]]},
            "choices: each of them has one of the bad",
        ),
        (
            {"allowed_token_ids": [1, 2, 7], "bad_token_ids": [[1], [2]]},
            "allowed_token_ids: model m never emits any of",
        ),
    ],
)
def test_what_a_model_cannot_do_is_said(fields: dict[str, Any], words: str) -> None:
    speller = Speller(info(None, 257, suppressed=frozenset({7, 8})), None)
    with pytest.raises(ConstraintError, match=words):
        speller.spelled(SamplingParams(**fields), [])
    assert speller.spelled(SamplingParams(allowed_token_ids=[6, 7]), []).allowed_token_ids == (6, 7)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"allowed_token_ids": []}, "allowed_token_ids="),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids="),
        ({"allowed_token_ids": "5"}, "allowed_token_ids="),
        ({"logit_bias": {5: 101}}, "logit_bias="),
        ({"logit_bias": {-5: 1}}, "logit_bias="),
        ({"logit_bias": {"5": 1}}, "logit_bias="),
        ({"logit_bias": [(5,)]}, "logit_bias="),
        ({"bad_words": [""]}, "bad_words="),
        ({"bad_words": "word"}, "bad_words="),
        ({"choices": [5]}, "choices="),
        ({"bad_token_ids": [[]]}, "bad_token_ids="),
        ({"choice_token_ids": [5]}, "choice_token_ids="),
        ({"choices": ["a"], "min_tokens": 1}, "min_tokens=1 and choices"),
        ({"choices": ["a"], "stop_after": 1}, "stop_after=1 and choices"),
        ({"choice_token_ids": [[1]], "allowed_token_ids": [1]}, "allowed_token_ids="),
    ],
)
def test_values_are_checked(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SamplingParams(**fields)


def test_parameters_survive_json() -> None:
    """Durable jobs keep them so."""
    import json
    from dataclasses import asdict

    params = SamplingParams(allowed_token_ids=[1, 2], logit_bias={5: 1.5}, bad_words=["a"], bad_token_ids=[[1], [2, 3]])
    again = SamplingParams(**json.loads(json.dumps(asdict(params))))
    assert again == params and hash(again) == hash(params)
    assert params.constrained == ["allowed_token_ids", "logit_bias", "bad_words", "bad_token_ids"]


def test_choices_with_bad_words_are_left_out() -> None:
    params = bytes_spelled(bad_words=["no"], choices=["yes", "no", "know"])
    assert params.choice_token_ids == (tuple(b"yes"),) and params.bad_token_ids == ()


def constraint(eos: frozenset[int] = frozenset({0}), **fields: Any) -> Constraint:
    found = Constraint.of(SamplingParams(**fields), eos)
    assert found is not None
    return found


def test_a_request_that_allows_anything_has_none() -> None:
    assert Constraint.of(SamplingParams(stop="a", seed=3), frozenset({0})) is None


def test_a_bad_sequence_bars_its_last_token_behind_the_others() -> None:
    it = constraint(bad_token_ids=[[9], [1, 2], [1, 1, 3]])
    assert it.allowed is None
    seen = []
    for token in (1, 1, 1, 2, 1):
        seen.append(sorted(it.barred))
        it.accept(token)
    assert seen == [[9], [2, 9], [2, 3, 9], [2, 3, 9], [9]]
    assert sorted(it.barred) == [2, 9]


def test_choices_leave_what_goes_on_with_one_of_them() -> None:
    it = constraint(choice_token_ids=[[1], [1, 2], [1, 2, 3, 4], [5, 6]])
    assert it.allowed == [1, 5]
    it.accept(1)
    assert it.allowed == [0, 2], "an end token ends the first one"
    it.accept(2)
    assert it.allowed == [0, 3]
    it.accept(3)
    assert it.allowed == [4]


def test_an_output_is_complete_when_no_choice_goes_on() -> None:
    choices = ((1,), (1, 2), (5, 6))
    assert not complete([1], choices) and complete([1, 2], choices) and complete([5, 6], choices)
    assert not complete([5], choices) and not complete([6], choices)
    assert ended([1, 0], choices, {0}) and not ended([5, 0], choices, {0}) and not ended([1, 2], choices, {0})
    assert not ended([1, 2], choices, {2}), "an end token that a choice goes on with does not end it"


# -- the engine --------------------------------------------------------------------------------------------------------


def test_a_body_that_cannot_constrain_says_so() -> None:
    with Engine.scripted() as engine:
        for field, value in (
            ("allowed_token_ids", [5]),
            ("logit_bias", {5: 1}),
            ("bad_words", ["a"]),
            ("choices", ["a"]),
        ):
            with pytest.raises(ConstraintError, match=f"{field}: backend scripted cannot constrain an output"):
                engine.submit("a", SamplingParams(**{field: value}))


@pytest.fixture(scope="module")
def engine() -> Any:
    pytest.importorskip("torch")
    with Engine.from_pretrained("embedded", kv_tokens=512, host_tokens=512, max_batch=3, policy="mlfq") as engine:
        yield engine


def said(engine: Any, prompt: str = "Hi there", **fields: Any) -> Any:
    return engine.generate(prompt, SamplingParams(**{"max_tokens": 16, "ignore_eos": True, **fields}))[0]


def test_outputs_keep_to_what_they_may_be(engine: Any) -> None:
    for seed in range(3):
        free = said(engine, seed=seed)
        assert set(said(engine, seed=seed, allowed_token_ids=[97, 98, 99]).text) <= set("abc")
        word = free.text[3:5]
        assert word not in said(engine, seed=seed, bad_words=[word]).text
        assert free.text[0] not in said(engine, seed=seed, bad_words=[free.text[0]]).text
        assert said(engine, seed=seed, logit_bias={120: 100}).text == "x" * 16
        assert free.text[1] not in said(engine, seed=seed, logit_bias={ord(free.text[1]): -100}).text
        again = said(engine, seed=seed, allowed_token_ids=range(engine.vocab_size), logit_bias={5: 0.0})
        assert again.token_ids == free.token_ids, "a constraint that allows all changes nothing"


def test_choices_end_with_one_of_them(engine: Any) -> None:
    choices = ["yes", "no", "a", "ab", "abc", "line\nbreak", " space"]
    found = {said(engine, seed=seed, temperature=3.0, choices=choices).text for seed in range(20)}
    assert found <= set(choices) and len(found) > 3 and found & {"a", "ab"}, found
    for choice in choices:
        one = said(engine, choices=[choice])
        assert one.text == choice and one.finish_reason == "stop" and len(one.token_ids) == len(choice)
    short = said(engine, choices=["abcdef"], max_tokens=3)
    assert short.text == "abc" and short.finish_reason == "length"


def test_probabilities_are_of_what_is_allowed(engine: Any) -> None:
    import math

    output = said(engine, allowed_token_ids=[97, 98], logprobs=5, max_tokens=2)
    for row in output.logprobs:
        assert set(row) == {97, 98} and math.isclose(sum(map(math.exp, row.values())), 1, rel_tol=1e-4)
