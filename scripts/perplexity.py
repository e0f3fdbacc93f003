"""What rounding costs: perplexity and logits of one model under several settings, through the engine's own logprobs.

    python scripts/perplexity.py --model smollm2 --try dtype=float32,weights=exact --try dtype=float32,weights=half
    python scripts/perplexity.py --try weights=exact --try backend=onnx,quantize=int8 --try backend=llamacpp

Every --try is a set of options of Engine.from_pretrained; the first is what the others are compared with. Of each piece
of the text every token but the first is asked for by the tokens before it, as a prompt of its own, with the logprobs of
the whole vocabulary: so it works on every backend that has a vocabulary and logprobs, and what is measured is what is
served. All settings get the token ids of the first one's tokenizer.

perplexity: of the text's tokens. KL: of the first one's distribution from this one's, nats a token. distance: root mean
square of the logits' differences, over their spread. argmax: share of positions with the same likeliest token.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastserve.engine import Engine, SamplingParams
from fastserve.named_models import at_hand

TEXT = Path(__file__).parent.parent / "docs" / "design.md"
Array = np.ndarray[Any, np.dtype[np.float32]]


class Row(NamedTuple):
    perplexity: float
    kl: float
    distance: float
    argmax: float

    def __str__(self) -> str:
        return f"{self.perplexity:10.4f}{self.kl:12.2e}{self.distance:12.2e}{self.argmax:9.1%}"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model", default=at_hand(), help="default: %(default)s")
    add("--try", dest="tries", action="append", metavar="OPTION=VALUE,...", help="may be repeated")
    add("--text", type=Path, default=TEXT, help="default: docs/design.md")
    add("--tokens", type=int, default=512, help="of the text (default: %(default)s)")
    add("--piece", type=int, default=64, help="tokens of a piece, the longest context (default: %(default)s)")
    add("--threads", type=int, help="of PyTorch, for all settings that name no other number")
    return parser


def options_of(text: str) -> dict[str, Any]:
    """Raises SystemExit for what is no OPTION=VALUE."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    wrong = [name for name, found, _ in pairs if not found]
    if wrong:
        raise SystemExit(f"--try {text}: {wrong[0]} has no value; write OPTION=VALUE,OPTION=VALUE")
    return {name: int(value) if value.isdigit() else value for name, _, value in pairs}


def logprobs(engine: Engine, pieces: list[list[int]]) -> tuple[Array, Array]:
    """Of the vocabulary at every position that is asked for, (positions, vocabulary), and of the text's own tokens."""
    params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, logprobs=engine.vocab_size)
    rows, own = [], []
    for prompt, token in asked(pieces):
        (found,) = engine.generate([prompt], params)
        if found.logprobs is None:
            raise SystemExit("this backend gives no logprobs")
        row = np.full(engine.vocab_size, np.nan, np.float32)
        top = found.logprobs[0]
        row[list(top)] = list(top.values())
        rows.append(row)
        own.append(row[token])
    return np.stack(rows), np.array(own, np.float32)


def asked(pieces: list[list[int]]) -> Iterator[tuple[list[int], int]]:
    for piece in pieces:
        for at in range(1, len(piece)):
            yield piece[:at], piece[at]


def compared(exact: Array, found: Array, own: Array) -> Row:
    """Tokens that are barred have no logprob, and count nowhere."""
    both = np.isfinite(exact) & np.isfinite(found)
    difference = np.where(both, found - exact, 0)
    share = np.where(both, np.exp(np.where(both, exact, 0)), 0)
    count = both.sum(1, keepdims=True)
    centred = np.where(both, difference - difference.sum(1, keepdims=True) / count, 0)  # of logits, up to a constant
    spread = np.nanstd(np.where(both, exact, np.nan), 1)
    distance = np.sqrt(np.square(centred).sum(1) / count[:, 0]) / spread
    same = np.nanargmax(found, 1) == np.nanargmax(exact, 1)
    return Row(float(np.exp(-own[np.isfinite(own)].mean())), float(-(share * difference).sum(1).mean()),
               float(np.exp(np.log(np.maximum(distance, 1e-9)).mean())), float(same.mean()))  # fmt: skip


def main() -> int:
    options = arguments().parse_args()
    tries = options.tries or ["dtype=float32,weights=exact", "dtype=float32,weights=half", "dtype=bfloat16"]
    pieces: list[list[int]] = []
    exact: Array | None = None
    print(f"{options.model}, {options.tokens} tokens of {options.text.name} in pieces of {options.piece}")
    print(f"  {'':36}{'perplexity':>10}{'KL':>12}{'distance':>12}{'argmax':>9}{'seconds':>9}")
    for each in tries:
        given = {"threads": options.threads} | options_of(each)
        began = time.monotonic()
        with Engine.from_pretrained(options.model, policy="fcfs", **given) as engine:
            if not pieces:
                text = options.text.read_text(encoding="utf-8")[: 12 * options.tokens]
                ids = engine.tokenizer.encode(text)[: options.tokens]
                pieces = [ids[at : at + options.piece] for at in range(0, len(ids), options.piece)]
            found, own = logprobs(engine, pieces)
        exact = found if exact is None else exact
        if found.shape != exact.shape:
            raise SystemExit(f"--try {each} has a vocabulary of {found.shape[1]}, the first one {exact.shape[1]}")
        print(f"  {each:36}{compared(exact, found, own)}{time.monotonic() - began:9.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
