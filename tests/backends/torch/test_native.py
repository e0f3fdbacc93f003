"""Every kernel against its formula in float64, the independence of a row's bits from its company, and the build."""

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch.nn.functional import linear, silu  # noqa: E402

from fastserve.backends.torch import native as package  # noqa: E402
from fastserve.backends.torch.native import build  # noqa: E402
from fastserve.backends.torch.native.low_rank import LowRanks  # noqa: E402
from fastserve.backends.torch.native.stack import fuse  # noqa: E402
from fastserve.backends.torch.native.surgery import operate  # noqa: E402
from tests.backends.torch.packed import logits_of, model_of, texts  # noqa: E402

NATIVE = package.load()
needs_native = pytest.mark.skipif(NATIVE is None, reason="no compiler here builds the native kernels")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Largest distance from the result in float64, relative to the largest value; the half types round it to 8 and 11 bits.
CLOSE = {torch.float32: 2e-5, torch.bfloat16: 6e-3, torch.float16: 8e-4}
some = settings(max_examples=40, deadline=None)


def near(got: Any, want: Any) -> bool:
    return (got.double() - want).abs().max() <= CLOSE[got.dtype] * max(1.0, want.abs().max())


class Case:
    """Sequences over a shuffled pool. K and V of everything are written; unused tokens of the pool are NaN."""

    def __init__(self, draw: Any, dtype: Any, *, heads: int, kv_heads: int, dim: int, tokens: int, lengths: list[int],
                 native: Any = None):  # fmt: skip
        self.native = native or NATIVE
        make = torch.Generator().manual_seed(draw)
        self.dtype, self.heads, self.tokens, self.lengths = dtype, heads, tokens, lengths
        self.queries = [torch.randn(n, heads, dim, generator=make).to(dtype) for n in lengths]
        self.keys = [torch.randn(n, kv_heads, dim, generator=make).to(dtype) for n in lengths]
        self.values = [torch.randn(n, kv_heads, dim, generator=make).to(dtype) for n in lengths]
        blocks = [-(-n // tokens) for n in lengths]
        numbers = torch.randperm(sum(blocks) + 3, generator=make).tolist()
        self.tables = [[numbers.pop() for _ in range(n)] for n in blocks]
        self.pool = torch.full((sum(blocks) + 3, 2, 2, kv_heads, tokens, dim), float("nan"), dtype=dtype)
        for i, n in enumerate(lengths):
            slots = torch.tensor([self.tables[i][t // tokens] * tokens + t % tokens for t in range(n)])
            self.native.write(self.keys[i], self.values[i], self.pool, 1, slots)

    def run(self, work: list[tuple[int, int, int]], **options: Any) -> list[Any]:
        """work: (sequence, first row, rows); the context of each ends with its last row."""
        starts = [0]
        for _, _, rows in work:
            starts.append(starts[-1] + rows)
        widest = max(len(self.tables[i]) for i, _, _ in work)
        step = SimpleNamespace(
            starts=torch.tensor(starts, dtype=torch.int32),
            lengths=torch.tensor([first + rows for _, first, rows in work], dtype=torch.int32),
            tables=torch.tensor(
                [self.tables[i] + [0] * (widest - len(self.tables[i])) for i, _, _ in work], dtype=torch.int32
            ),
        )
        query = torch.cat([self.queries[i][first : first + rows] for i, first, rows in work])
        query = query.transpose(0, 1).contiguous().transpose(0, 1)  # the strides that a model's rotary leaves behind
        out = self.native.attend(query, self.pool, 1, step, scale=0.3, **options)
        return list(out.split([rows for _, _, rows in work]))

    def expected(self, i: int, window: int | None, softcap: float | None, sinks: Any) -> Any:
        """All rows of sequence i in float64."""
        repeat = self.heads // self.keys[i].shape[1]
        key = self.keys[i].double().repeat_interleave(repeat, 1)
        value = self.values[i].double().repeat_interleave(repeat, 1)
        score = torch.einsum("qhd,khd->hqk", self.queries[i].double(), key) * 0.3
        if softcap:
            score = softcap * torch.tanh(score / softcap)
        t = torch.arange(self.lengths[i])
        ok = t[None] <= t[:, None]
        if window:
            ok &= t[None] > t[:, None] - window
        score = score.masked_fill(~ok, float("-inf"))
        if sinks is not None:
            extra = sinks.double()[:, None, None].expand(-1, self.lengths[i], 1)
            score = torch.cat([score, extra], -1)
        weight = torch.softmax(score, -1)[..., : self.lengths[i]]
        return torch.einsum("hqk,khd->qhd", weight, value)


cases = st.builds(
    lambda draw, dtype, kv, group, dim, tokens, lengths: Case(
        draw, dtype, heads=kv * group, kv_heads=kv, dim=dim, tokens=tokens, lengths=lengths
    ),
    st.integers(0, 2**31),
    st.sampled_from(DTYPES),
    st.integers(1, 3),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from([8, 16, 24, 64, 72, 80, 128]),
    st.sampled_from([1, 4, 16, 17, 32]),
    st.lists(st.integers(1, 90), min_size=1, max_size=4),
)
windows = st.none() | st.integers(1, 100)


@needs_native
@some
@given(cases, windows, st.none() | st.sampled_from([5.0, 50.0]), st.booleans())
def test_attention_over_blocks_equals_attention_in_float64(case, window, softcap, with_sinks):
    sinks = torch.linspace(-2, 4, case.heads) if with_sinks else None
    work = [(i, 0, n) for i, n in enumerate(case.lengths)]
    for i, got in enumerate(case.run(work, window=window, softcap=softcap, sinks=sinks)):
        assert near(got, case.expected(i, window, softcap, sinks))


@needs_native
@some
@given(cases, windows, st.data())
def test_a_row_has_the_same_bits_decoded_chunked_or_in_another_batch(case, window, data):
    whole = case.run([(i, 0, n) for i, n in enumerate(case.lengths)], window=window)
    for i, n in enumerate(case.lengths):
        done = 0
        while done < n:
            rows = data.draw(st.integers(1, min(40, n - done)), "rows of the chunk")
            other = data.draw(st.integers(0, len(case.lengths) - 1), "beside sequence")
            (got, _) = case.run([(i, done, rows), (other, case.lengths[other] - 1, 1)], window=window)
            assert torch.equal(got, whole[i][done : done + rows])
            done += rows


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_number_of_threads(dtype):
    case = Case(3, dtype, heads=6, kv_heads=2, dim=64, tokens=16, lengths=[300, 33, 70, 1])
    x, weight = torch.randn(37, 200).to(dtype), torch.randn(333, 200).to(dtype)
    packed = NATIVE.pack(weight)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(
                (torch.cat(case.run([(i, 0, n) for i, n in enumerate(case.lengths)])), NATIVE.linear(x, packed))
            )
    finally:
        torch.set_num_threads(before)
    for attended, product in results[1:]:
        assert torch.equal(attended, results[0][0]) and torch.equal(product, results[0][1])


@needs_native
def test_scores_far_from_zero_neither_overflow_nor_vanish():
    case = Case(1, torch.float32, heads=1, kv_heads=1, dim=8, tokens=16, lengths=[40])
    case.queries[0] *= 300
    (got,) = case.run([(0, 0, 40)])
    assert near(got, case.expected(0, None, None, None))


@needs_native
@some
@given(
    st.sampled_from(DTYPES),
    st.integers(1, 30),
    st.integers(1, 70),
    st.integers(1, 100),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_packed_product_equals_linear_in_float64(dtype, rows, inner, outer, with_bias, strided, seed):
    make = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inner + 3 * strided, generator=make).to(dtype)[:, :inner]
    weight = torch.randn(outer, inner, generator=make).to(dtype)
    bias = torch.randn(outer, generator=make).to(dtype) if with_bias else None
    got = NATIVE.linear(x, NATIVE.pack(weight, bias))
    assert near(got, linear(x.double(), weight.double(), None if bias is None else bias.double()))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_of_no_rows_has_none(dtype):
    """As of the logits of a step in which nobody's prefill ends."""
    got = NATIVE.linear(torch.zeros(1, 0, 48, dtype=dtype), NATIVE.pack(torch.zeros(7, 48, dtype=dtype)))
    assert got.shape == (1, 0, 7)


@needs_native
@some
@given(st.sampled_from(DTYPES), st.integers(1, 30), st.integers(1, 70), st.integers(1, 100), st.integers(0, 2**31))
def test_gated_product_equals_silu_of_the_gate_times_the_other(dtype, rows, inner, outer, seed):
    make = torch.Generator().manual_seed(seed)
    x, gate, up = (torch.randn(n, inner, generator=make).to(dtype) for n in (rows, outer, outer))
    got = NATIVE.linear(x, NATIVE.pack_gated(gate, up))
    x, gate, up = x.double(), gate.double(), up.double()
    assert near(got, silu(linear(x, gate)) * linear(x, up))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_a_product_has_the_same_bits_in_every_batch(dtype):
    x, weight = torch.randn(200, 1100).to(dtype), torch.randn(100, 1100).to(dtype)  # 200 rows: several passes
    packed, gated = NATIVE.pack(weight), NATIVE.pack_gated(weight, weight.flip(0))
    for pack in (packed, gated):
        whole = NATIVE.linear(x, pack)
        for rows in (1, 2, 3, 5, 6, 7, 13, 100):
            assert torch.equal(NATIVE.linear(x[40 : 40 + rows], pack), whole[40 : 40 + rows])


@needs_native
def test_bfloat16_results_are_rounded_to_the_nearest_with_ties_to_even_and_nan_stays():
    exact = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 3.4e38, float("inf"), float("nan"), 1e-40])
    parts = torch.stack([exact.bfloat16().float(), exact - exact.bfloat16().float()], 1).bfloat16()  # sum to `exact`
    parts[4:6, 1] = 0
    assert same(sums(parts), parts.float().sum(1).bfloat16())


@needs_native
def test_float16_is_widened_and_rounded_as_pytorch_does_it_from_the_smallest_to_the_infinite():
    every = torch.arange(65536).to(torch.uint16).view(torch.float16)
    assert same(sums(torch.stack([every, torch.zeros_like(every)], 1)), every)
    one = torch.ones(1, dtype=torch.float16)
    assert same(NATIVE.linear(every[:, None], NATIVE.pack(one[None]))[:, 0], every)
    assert same(NATIVE.rms_norm(one.expand(1, 65536).contiguous(), every, 0.0)[0], every)
    other = every[torch.randperm(65536, generator=torch.Generator().manual_seed(0))]
    for scale in (1.0, 2.0**-8, 2.0**-11):  # sums that lie between two numbers, ties among them
        parts = torch.stack([every, (other.float() * scale).half()], 1)
        assert same(sums(parts), parts.float().sum(1).half())


def sums(parts: Any) -> Any:
    """The rows' sums, taken in float32 and rounded to the dtype."""
    return NATIVE.linear(torch.ones(1, 2, dtype=parts.dtype), NATIVE.pack(parts))[0]


def same(got: Any, want: Any) -> bool:
    """Bit by bit, but every NaN is one and zeros have no sign."""
    return bool(((got == want) | (got.isnan() & want.isnan())).all())


@needs_native
@some
@given(st.sampled_from(DTYPES), st.integers(1, 9), st.integers(1, 200), st.booleans(), st.integers(0, 2**31))
def test_rms_norm_equals_its_formula_in_float64(dtype, rows, width, strided, seed):
    make = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(2, rows, width + 5 * strided, generator=make)).to(dtype)[..., :width]
    weight = torch.randn(width, generator=make).to(dtype)
    wide = x.double()
    want = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    got = NATIVE.rms_norm(x, weight, 1e-5)
    assert got.shape == x.shape and near(got, want)
    assert torch.equal(NATIVE.rms_norm(x[1, :1], weight, 1e-5), got[1, :1])


@needs_native
def test_tensors_that_do_not_fit_are_refused_before_their_bytes_are_misread():
    half, single = torch.ones(2, 8, dtype=torch.bfloat16), torch.ones(2, 8)
    pool = torch.zeros(1, 1, 2, 1, 4, 8)
    with pytest.raises(TypeError):
        NATIVE.linear(half, NATIVE.pack(single))
    with pytest.raises(TypeError):
        NATIVE.linear(single[:, :4], NATIVE.pack(single))
    with pytest.raises(TypeError):
        NATIVE.rms_norm(half, single[0], 1e-5)
    with pytest.raises(TypeError):
        NATIVE.write(half[:, None], half[:, None], pool, 0, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError):
        NATIVE.attend(half[:, None], pool, 0, SimpleNamespace(), 1.0)


def test_other_dtypes_and_devices_are_left_to_pytorch():
    if NATIVE is not None:
        assert not NATIVE.supports(torch.float64, "cpu") and not NATIVE.supports(torch.float32, "cuda:0")
        assert NATIVE.supports(torch.bfloat16, torch.device("cpu"))


# ---- what other processors run: 16 floats a vector, and AMX, whose instructions tiles.h computes

TILES = Path(__file__).with_name("tiles.h")


@needs_native
def test_wide_vectors_and_matrix_tiles_compute_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTSERVE_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", f"g++ -O1 -DLANES=16 -include {TILES}")
    wide = package.load()
    assert wide is not None and wide.lanes == 16 and wide.tiles
    make = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        for dim in (64, 24):
            case = Case(5, dtype, heads=6, kv_heads=2, dim=dim, tokens=16, lengths=[70, 5], native=wide)
            whole = case.run([(0, 0, 70), (1, 0, 5)], window=30)
            for i in range(2):
                assert near(whole[i], case.expected(i, 30, None, None))
            assert torch.equal(case.run([(0, 69, 1)], window=30)[0], whole[0][69:])
        for rows, inner, outer in ((1, 32, 32), (16, 33, 65), (40, 70, 100), (67, 96, 31)):
            x = torch.randn(rows, inner, generator=make).to(dtype)
            weight, other = (torch.randn(outer, inner, generator=make).to(dtype) for _ in "ab")
            bias = torch.randn(outer, generator=make).to(dtype)
            packed, gated = wide.pack(weight, bias), wide.pack_gated(weight, other)
            got = wide.linear(x, packed)
            assert near(got, linear(x.double(), weight.double(), bias.double()))
            assert near(
                wide.linear(x, gated), silu(linear(x.double(), weight.double())) * linear(x.double(), other.double())
            )
            assert torch.equal(wide.linear(x[-1:], packed), got[-1:])
            low = LowRanks([outer], False, wide.lanes, 1)
            down, up = torch.randn(3, inner, generator=make), torch.randn(outer, 3, generator=make)
            low.put(0, low.made({0: (down, up)}))
            slots = -(torch.arange(rows, dtype=torch.int32) % 2)
            adapted = wide.linear(x, packed, (slots, low))
            assert torch.equal(adapted[1::2], got[1::2])
            more = x.double() @ (weight.double() + up.double() @ down.double()).T + bias.double()
            assert near(adapted[::2], more[::2])
        module = model_of("qwen3", dtype)
        operate(module, wide)
        one_by_one = logits_of(module, wide, texts(), None)
        assert fuse(module, wide) is not None
        for got, want in zip(logits_of(module, wide, texts(), 1), one_by_one, strict=True):
            assert torch.equal(got, want)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is of x86-64")
def test_the_instructions_for_amx_compile(tmp_path):
    command = [*build.compiler()[:1], "-march=sapphirerapids", "-std=c++17", "-fopenmp", "-S", "-O0"]
    text = tmp_path / "kernels.s"
    ended = subprocess.run([*command, str(build.SOURCE), "-o", str(text)], capture_output=True, text=True)
    if "sapphirerapids" in ended.stderr:
        pytest.skip("this compiler does not know a processor with AMX")
    assert ended.returncode == 0, ended.stderr
    assert "tdpbf16ps" in text.read_text()


# ---- the build


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTSERVE_CACHE", str(tmp_path))
    monkeypatch.delenv("FASTSERVE_NATIVE", raising=False)
    return tmp_path / "native"


def test_off_and_broken_compilers_give_no_kernels_and_one_line(cache, monkeypatch, caplog, tmp_path):
    caplog.set_level("INFO", logger="fastserve")
    monkeypatch.setenv("FASTSERVE_NATIVE", "off")
    assert package.load() is None
    monkeypatch.delenv("FASTSERVE_NATIVE")
    for compiler in ("/bin/false", "/no/such/compiler"):
        monkeypatch.setenv("CXX", compiler)
        assert package.load() is None
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert package.load() is None
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 4
    for line, word in zip(said, ("FASTSERVE_NATIVE", "/bin/false", "/no/such/compiler", "g++"), strict=True):
        assert word in line
    assert not list(cache.glob("*")), "a failed build leaves nothing behind"


def test_an_unusable_cache_folder_is_one_clear_line(cache, monkeypatch, caplog, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FASTSERVE_CACHE", str(tmp_path / "file"))
    assert package.load() is None
    assert "FASTSERVE_CACHE" in caplog.text


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A source and a header that take no time to compile."""
    monkeypatch.setenv("CXX", "g++ -O0")
    source = tmp_path / "source" / "tiny.cpp"
    source.parent.mkdir()
    source.write_text('#include "value.h"\nextern "C" int value() { return VALUE; }\n')
    source.with_name("value.h").write_text("#define VALUE 7\n")
    monkeypatch.setattr(build, "SOURCE", source)
    return source


BUILD = (
    "import pathlib, sys; from fastserve.backends.torch.native import build; build.SOURCE = pathlib.Path(sys.argv[1]); "
    "print(build.library())"
)


@needs_native
def test_builds_at_once_then_a_damaged_file(cache, tiny):
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[3]))
    command = [sys.executable, "-c", BUILD, str(tiny)]
    several = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in "abc"]
    for process in several:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and Path(out.strip()).parent == cache
    files = list(cache.iterdir())
    assert files and all(f.suffix == ".so" and not f.name.startswith("building") for f in files)
    good = build.library()
    written = good.stat().st_mtime_ns
    assert build.library() == good and good.stat().st_mtime_ns == written, "found, not built again"
    for file in files:
        file.write_bytes(file.read_bytes()[:5000])
    assert ctypes.CDLL(str(build.library())).value() == 7


@needs_native
def test_another_command_source_header_or_processor_is_another_key(cache, tiny, monkeypatch):
    def key() -> str:
        return build.library().name.partition("-")[0]

    keys = [key()]
    monkeypatch.setenv("CXX", "g++ -O0 -g")
    keys.append(key())
    tiny.write_text(tiny.read_text() + "// more\n")
    keys.append(key())
    tiny.with_name("value.h").write_text("#define VALUE 8\n")
    keys.append(key())
    monkeypatch.setattr(build, "_processor", lambda: "another one")
    keys.append(key())
    assert len(set(keys)) == 5
