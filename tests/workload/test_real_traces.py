"""The public traces, where they are at hand: our numbers agree with the published table about them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastserve.workload import TraceError, describe, read_trace

ROOT = Path(os.environ.get("FASTSERVE_TRACES", Path(__file__).parents[3] / "shared" / "traces"))
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="no public traces: set FASTSERVE_TRACES")


def real(name: str) -> Path:
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{name} is not there")
    return path


Five = tuple[float, float, float, float, float]

TABLE: list[tuple[str, int, float, float, float, float, float, float, Five, Five]] = [
    # file, n, span s, rate, CV, D(10), peak, rank correlation; mean, p50, p90, p99, max of prompt and of output
    (
        "azure_2023/AzureLLMInferenceTrace_conv.csv", 19366, 3502, 5.53, 1.09, 3.9, 1.5, 0.07,
        (1155, 1020, 2734, 4142, 14050), (211, 129, 424, 601, 1000),
    ),
    (
        "azure_2023/AzureLLMInferenceTrace_code.first40min.csv", 7491, 2393, 3.13, 12.6, 70, 3.4, -0.02,
        (2040, 1465, 5177, 7436, 7437), (28, 13, 55, 248, 1899),
    ),
    (
        "mooncake/conversation_trace.first40min.jsonl", 7851, 2397, 3.27, 2.97, 2.1, 1.26, 0.07,
        (12428, 7284, 27991, 89868, 124847), (347, 356, 606, 1168, 2000),
    ),
    (
        "mooncake/arxiv_trace_lengths.first40min.csv", 15234, 2397, 6.36, 4.29, 3.3, 1.20, 0.08,
        (8754, 6344, 17135, 66857, 124824), (183, 30, 511, 916, 2000),
    ),
    (
        "mooncake/synthetic_trace.jsonl", 3993, 1022, 3.91, 1.01, 1.2, 1.17, -0.52,
        (15325, 11587, 38611, 66456, 191378), (149, 69, 389, 768, 893),
    ),
    (
        "lmsys_arena/vtc_arena_600s.csv", 1500, 600, 2.50, 1.10, 2.5, 1.22, 0.26,
        (136, 40, 432, 902, 1021), (256, 211, 513, 785, 977),
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: Path(row[0]).name)
def test_statistics_agree_with_the_table(
    row: tuple[str, int, float, float, float, float, float, float, Five, Five],
) -> None:
    name, n, span, rate, cv, d10, peak, correlation, prompt, output = row
    found = describe(read_trace(real(name)))
    assert found.n == n
    assert found.dropped == {}
    assert found.span_s == pytest.approx(span, abs=0.51)
    assert found.rate_rps == pytest.approx(rate, abs=0.0051)
    assert found.gap_cv == pytest.approx(cv, rel=0.005)
    assert found.dispersion_10s == pytest.approx(d10, rel=0.03)  # the table gives two digits
    assert found.peak_60s == pytest.approx(peak, rel=0.03)
    assert found.rank_correlation == pytest.approx(correlation, abs=0.0051)
    for lengths, wanted in ((found.prompt, prompt), (found.output, output)):
        got = (lengths.mean, lengths.p50, lengths.p90, lengths.p99, lengths.max)
        assert got == pytest.approx(wanted, abs=0.51)


def test_burstgpt_sample() -> None:
    found = describe(read_trace(real("burstgpt/BurstGPT_1.first400.csv")))
    assert (found.n, found.dropped) == (383, {"failed": 17})
    assert found.span_s == 37_269
    assert (found.prompt.mean, found.output.mean) == pytest.approx((544, 289), abs=0.51)
    assert found.rank_correlation == pytest.approx(0.28, abs=0.0051)


def test_distinct_blocks_and_clients() -> None:
    assert describe(read_trace(real("mooncake/conversation_trace.first40min.jsonl"))).block_ids == 126_103
    clients = describe(read_trace(real("lmsys_arena/vtc_arena_600s.csv"))).clients
    assert clients is not None
    assert len(clients) == 27
    assert [round(100 * rows / 1500) for rows in list(clients.values())[:5]] == [20, 17, 13, 8, 4]


@pytest.mark.parametrize(
    ("name", "n", "prompt", "output", "bad"),
    [
        ("lengths/sharegpt_8k_filtered_stats_llama2_tokenizer.csv", 30731, 2340, 439, 0),
        ("lengths/nanoflow_sharegpt.csv", 58787, 299, 324, 0),
        ("lengths/helix_alpaca.csv", 47379, 14, 48, 0),
        ("length_prediction/block_sharegpt_40k_predicted.csv", 40000, 251, 323, 13),
    ],
)
def test_length_sets(name: str, n: int, prompt: float, output: float, bad: int) -> None:
    trace = read_trace(real(name), rate=3.0, lenient=True)
    assert len(trace) == n - bad
    assert trace.dropped == ({"zero": bad} if bad else {})
    assert (trace.prompt.mean(), trace.output.mean()) == pytest.approx((prompt, output), abs=0.51)


@pytest.mark.parametrize(
    "name", ["azure_2024/azure_2024_conv_hourly_counts.csv", "burstgpt/BurstGPT_1_hourly_requests.csv"]
)
def test_hourly_counts_are_no_trace(name: str) -> None:
    with pytest.raises(TraceError, match="counts requests per hour"):
        read_trace(real(name))


def test_a_servegen_hour_has_the_stated_rate() -> None:
    trace = read_trace(real("servegen/multimodal_mm-image.tar.gz"), start_s=36_000, duration_s=600)
    assert trace.client is not None
    assert 3 < trace.rate < 20  # the service's mean over the day is 9.5
    assert trace.dropped == {}
    rates = read_trace(
        real("servegen/client_rates_m-small.csv.gz"), lengths="profile:sharegpt", start_s=3600, duration_s=30
    )
    assert rates.prompt.max() <= 1024
