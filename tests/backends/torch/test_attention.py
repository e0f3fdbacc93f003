"""Attention over the paged cache against the formula, whatever the chunks, the tables and the company."""

from __future__ import annotations

import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from fastserve.backends.torch import attention  # noqa: E402
from tests.backends.torch.rows import Sequence, Table, dense  # noqa: E402
from tests.devices import DEVICES  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


class Heads:
    """Random Q, K and V of some sequences, and the pool that the K and V are written to, NaN where nothing is."""

    def __init__(self, lengths: list[int], heads: int, kv_heads: int, dim: int, block: int, seed: int, dtype: Any):
        make = torch.Generator().manual_seed(seed)
        draw = lambda n, count: torch.randn(n, count, dim, generator=make).to(dtype)  # noqa: E731
        self.query = [draw(n, heads) for n in lengths]
        self.key = [draw(n, kv_heads) for n in lengths]
        self.value = [draw(n, kv_heads) for n in lengths]
        blocks = sum(-(-n // block) for n in lengths) + 2
        self.pool = torch.full((blocks, 3, 2, kv_heads, block, dim), float("nan"), dtype=dtype)
        self.table = Table(blocks, block, seed)
        self.sequences = [Sequence([0] * n) for n in lengths]
        self.scale = dim**-0.5

    def to(self, device: str) -> Heads:
        """Itself, with its tensors there."""
        self.query, self.key, self.value = ([it.to(device) for it in all] for all in (self.query, self.key, self.value))
        self.pool = self.pool.to(device)
        return self

    def run(self, work: list[tuple[int, int]], **options: Any) -> dict[int, Any]:
        """Writes and attends the next tokens of each (sequence, tokens); rows by sequence."""
        work = sorted(work, key=lambda pair: pair[1] != 1)
        rows = {i: slice(self.sequences[i].done, self.sequences[i].done + n) for i, n in work}
        step = self.table.step([(self.sequences[i], n) for i, n in work]).to(self.pool.device)
        pick = lambda parts: torch.cat([parts[i][rows[i]] for i, _ in work])  # noqa: E731
        attention.write(pick(self.key), pick(self.value), self.pool, 1, step.slots)
        attend = options.pop("attend", attention.attend)
        # The strides a model's rotary leaves behind: heads first.
        query = pick(self.query).transpose(0, 1).contiguous().transpose(0, 1)
        if options.get("sinks") is not None:
            options["sinks"] = options["sinks"].to(self.pool.device)
        out = attend(query, self.pool, 1, step, self.scale, **options).cpu()
        return dict(zip((i for i, _ in work), out.split([n for _, n in work]), strict=True))

    def expected(self, i: int, **options: Any) -> Any:
        return dense(self.query[i].cpu(), self.key[i].cpu(), self.value[i].cpu(), self.scale, **options)


@st.composite
def cases(draw: Any) -> tuple[Heads, list[list[tuple[int, int]]], dict[str, Any]]:
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    kv_heads = draw(st.sampled_from([1, 2]))
    heads = kv_heads * draw(st.sampled_from([1, 3]))
    world = Heads(lengths, heads, kv_heads, 8, draw(st.sampled_from([4, 16])), draw(st.integers(0, 99)), torch.float32)
    options: dict[str, Any] = {
        "window": draw(st.sampled_from([None, 1, 5, 17])),
        "softcap": draw(st.sampled_from([None, 2.0])),
        "sinks": draw(st.sampled_from([None, torch.linspace(-1, 1, heads)])),
    }
    dice = random.Random(draw(st.integers(0, 999)))
    left = list(lengths)
    steps = []
    while any(left):
        work = [(i, min(n, dice.choice([1, 1, 2, 7, 30]))) for i, n in enumerate(left) if n and dice.random() < 0.7]
        for i, n in work:
            left[i] -= n
        steps += [work] if work else []
    return world, steps, options


@pytest.mark.parametrize("device", DEVICES)
@given(case=cases())
@settings(max_examples=60)
def test_any_chunks_in_any_company_equal_the_formula(case: Any, device: str) -> None:
    world, steps, options = case
    world.to(device)
    got: dict[int, list[Any]] = {i: [] for i in range(len(world.sequences))}
    for work in steps:
        for i, rows in world.run(work, **options).items():
            got[i].append(rows)
    for i, rows in got.items():
        torch.testing.assert_close(torch.cat(rows).double(), world.expected(i, **options), atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [None, 3, 20])
@pytest.mark.parametrize("extra", [{}, {"softcap": 1.5}, {"sinks": torch.tensor([0.5, -0.5, 1.0, 0.0])}])
def test_decodes_in_one_padded_call_equal_the_formula(window: int | None, extra: dict[str, Any], device: str) -> None:
    world = Heads([33, 1, 18, 16, 7], 4, 2, 8, 16, 5, torch.float32).to(device)
    world.run([(i, len(s.tokens) - 1) for i, s in enumerate(world.sequences) if len(s.tokens) > 1])
    rows = world.run([(i, 1) for i in range(5)], attend=attention.attend_decodes, window=window, **extra)
    for i, row in rows.items():
        torch.testing.assert_close(row[0].double(), world.expected(i, window=window, **extra)[-1], atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [None, 100])
def test_a_prompt_of_several_tiles(window: int | None, device: str) -> None:
    tile = attention.TILE if device == "cpu" else attention.WIDE_TILE
    world = Heads([2 * tile + 45], 4, 2, 8, 16, 5, torch.float32).to(device)
    first = world.run([(0, 30)], window=window)[0]
    rest = world.run([(0, 2 * tile + 15)], window=window)[0]
    expected = world.expected(0, window=window)
    torch.testing.assert_close(torch.cat([first, rest]).double(), expected, atol=2e-6, rtol=2e-5)


def test_a_decode_has_the_same_bits_in_any_company() -> None:
    def last(company: list[int]) -> Any:
        world = Heads([50, 9, 77, 31], 6, 2, 16, 16, 3, torch.float32)
        world.run([(i, len(s.tokens) - 1) for i, s in enumerate(world.sequences)])
        return world.run([(i, 1) for i in company])[0]

    alone = last([0])
    assert torch.equal(alone, last([0, 1, 2, 3]))
    assert torch.equal(alone, last([2, 0]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_stay_near_the_formula(dtype: Any, device: str) -> None:
    world = Heads([70, 20], 4, 2, 16, 16, 1, dtype).to(device)
    world.run([(0, 40), (1, 19)])
    rows = world.run([(0, 30), (1, 1)])
    assert rows[0].dtype == dtype
    torch.testing.assert_close(rows[0].double(), world.expected(0)[40:], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(rows[1].double(), world.expected(1)[19:], atol=2e-2, rtol=2e-2)
