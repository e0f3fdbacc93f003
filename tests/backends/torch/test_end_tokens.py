"""What ends an answer: the union of what tokenizer, configs and chat template say."""

from typing import Any

import pytest

pytest.importorskip("transformers")

from tokenizers import AddedToken, Tokenizer, models
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from fastserve.backends.torch.end_tokens import end_tokens

WORDS = ["</s>", "<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "a", "b"]
TURNS = "{% for m in messages %}{{ m.role + m.content }}END\n{% endfor %}"


def tokenizer(eos: str | None = None, template: str | None = None) -> Any:
    made = Tokenizer(models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="a"))
    made.add_special_tokens([AddedToken(word, special=True) for word in WORDS[:4]])
    words = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=eos)
    words.chat_template = template
    return words


@pytest.mark.parametrize(
    ("stated", "generation", "words", "ends"),
    [
        ({"eos_token_id": 0}, {"eos_token_id": 0}, tokenizer("<|im_end|>"), {0, 2}),
        ({"eos_token_id": [0, 3]}, {"eos_token_id": [3, 1]}, None, {0, 1, 3}),
        ({"eos_token_id": None}, {}, tokenizer("</s>"), {0}),
        ({"eos_token_id": 3}, None, tokenizer("<|end_of_text|>", TURNS.replace("END", "<|eot_id|>")), {1, 3}),
        ({"eos_token_id": 3}, None, tokenizer("<|end_of_text|>", TURNS.replace("END", " b")), {3}),
        ({"eos_token_id": 3}, None, tokenizer("<|end_of_text|>", "{{ raise_exception('no') }}"), {3}),
        ({"text_config": {"eos_token_id": [1, 2]}}, None, None, {1, 2}),
        ({"eos_token_id": 900}, None, tokenizer("</s>"), {0}),  # not a token of this model
        ({}, None, None, {2}),  # nobody says anything: what the family has
        ({}, {"eos_token_id": 1}, None, {1}),
    ],
)
def test_all_that_say_how_an_answer_ends_are_heard(stated: Any, generation: Any, words: Any, ends: set[int]) -> None:
    given = None if generation is None else GenerationConfig(**generation)
    assert end_tokens(stated, LlamaConfig(), given, words, 100) == ends
