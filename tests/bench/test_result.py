"""Records, measures and documents of replies made by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fastserve import bench
from fastserve.atomic_files import OutputError
from fastserve.bench import About, Progress, Result, Selection, as_document
from fastserve.bench.document import file_name
from fastserve.bench.metrics import client_metrics, details, limits_of
from fastserve.bench.progress import line
from fastserve.bench.report import report, warnings
from fastserve.bench.result import MORE_COLUMNS
from fastserve.bench.save import save_document, save_records
from fastserve.metrics.groups import group_summaries, grouping
from fastserve.metrics.records import COLUMNS
from fastserve.metrics.summary import Slo, summarise
from tests.bench.calls import call, reply, result, sample


def three() -> Result:
    """One of four tokens, sent 2 ms late; one refused; one cut off after its first token."""
    good = sample(call(0, due_ms=10), reply(12, [22, 32, 52, 62], prompt_tokens=5, output_tokens=4, text=["ab", "c"]))
    refused = sample(call(1, due_ms=20), reply(20, [], "rejected", status=503, error="HTTP 503: full"))
    cut = sample(call(2, due_ms=30), reply(30, [50], "unfinished", error="broke"))
    cut.reply.closed = 90_000_000
    return result([good, refused, cut])


def test_a_clients_records_have_groups_as_simulated_ones_have() -> None:
    columns = three().columns()
    columns["client"][:] = ["ann", "bob", "ann"]
    groups = grouping("client", [columns])
    parts = group_summaries(columns, groups, horizon_s=three().duration_s, slo=Slo(e2e_s=100.0))
    assert list(groups.names) == ["ann", "bob"] and [part["n"] for part in parts] == [2, 1]
    whole = summarise(columns, horizon_s=three().duration_s)
    rates = [part["throughput_rps"] or 0.0 for part in parts]
    assert sum(rates) == pytest.approx(whole["throughput_rps"])


def test_the_report_says_who_met_their_objectives() -> None:
    slo = Slo.parse("e2e=1us,attain=0.5")
    about = About(api="openai", settings={"slo": str(slo)})
    text = report(as_document(three(), about, Selection(goodput=limits_of(slo))))
    assert "0.0% of them met their objectives from the arrival   attain=0.5: this run did not" in text
    assert "met their limits from the send" in text
    assert "goodput" not in report(as_document(three(), About(api="openai"), Selection()))


def test_objectives_are_limits_in_ms() -> None:
    limits = limits_of(Slo.parse("ttft=1s,e2e=250ms,attain=0.9"))
    assert limits == {"ttft": 1000.0, "e2el": 250.0}
    assert Selection(goodput=limits).slo == Slo(ttft_s=1.0, e2e_s=0.25)


def test_columns() -> None:
    columns = three().columns()
    assert list(columns) == [*COLUMNS, *MORE_COLUMNS]
    for name, kind in (COLUMNS | MORE_COLUMNS).items():
        assert columns[name].dtype == np.dtype(kind), name
    row = {name: column[0] for name, column in columns.items()}
    assert row["arrival"] == pytest.approx(0.010)
    assert row["first_token"] == pytest.approx(0.022)
    assert row["end"] == pytest.approx(0.062)
    assert row["jct_from_arrival"] == pytest.approx(0.052)
    assert row["ttft"] == pytest.approx(0.012)
    assert row["s_per_token"] == pytest.approx(0.013)
    assert row["tpot_excl_first"] == pytest.approx(0.040 / 3)
    assert row["largest_gap"] == pytest.approx(0.020)
    assert (row["prompt_tokens"], row["output_tokens"], row["finish"]) == (5, 4, "length")
    assert (row["lag"], row["ttft_from_send"], row["latency_from_send"]) == pytest.approx((0.002, 0.010, 0.050))
    assert all(math.isnan(row[name]) for name in ("slowdown", "alone", "queued", "preempted", "stalled", "service"))


def test_a_class_is_told_by_the_client_s_own_records() -> None:
    """It is not sent: the server knows client, priority and objectives."""
    one = sample(call(0, slo_class="chat", client="a", priority=2), reply(1, [2, 3]))
    row = {name: column[0] for name, column in result([one]).columns().items()}
    assert (row["slo_class"], row["client"], row["priority"]) == ("chat", "a", 2)
    assert "slo_class" not in one.call.request.scheduling


def test_failures_are_rows_too() -> None:
    columns = three().columns()
    assert columns["finish"].tolist() == ["length", "rejected", "unfinished"]
    assert columns["error"].tolist() == ["", "HTTP 503: full", "broke"]
    assert math.isnan(columns["jct_from_arrival"][1])
    assert columns["jct_from_arrival"][2] == pytest.approx(0.060)  # so far: given up at 90 ms
    assert math.isnan(columns["end"][2])
    assert columns["ttft"][2] == pytest.approx(0.020)


def test_the_common_measures_read_the_records() -> None:
    summary = three().summary(Slo(ttft_s=0.015))
    assert (summary["n"], summary["completed"], summary["rejected"], summary["unfinished"]) == (3, 1, 1, 1)
    assert summary["mean_jct_s"] == pytest.approx(0.056)
    assert summary["slo_attainment"] == pytest.approx(1 / 3)
    assert summary["preemptions_per_job"] is None
    assert summary["swapped_out_gib"] is None
    assert summarise(three().columns(), horizon_s=1.0)["mean_jct_s"] == summary["mean_jct_s"]


def test_preemptions_where_the_server_tells_them() -> None:
    told = result([sample(call(i), reply(0, [1, 2], preemptions=i)) for i in range(3)])
    assert told.columns()["preemptions"].tolist() == [0, 1, 2]
    assert told.summary()["preemptions_per_job"] == 1


def test_client_metrics_count_from_the_send() -> None:
    """Two requests; by hand. The second has one token, thus no TPOT, and stands for 0 in goodput."""
    first = sample(call(0), reply(10, [30, 40, 60], output_tokens=3))
    second = sample(call(1, due_ms=100), reply(100, [1100], output_tokens=1))
    run = result([first, second], ended=2_000_000_000)
    chosen = Selection(percentiles=(50.0, 99.0, 99.9), goodput={"ttft": 20.1, "tpot": 15.1, "e2el": 50.1})
    found = client_metrics(run, chosen)
    assert (found["completed"], found["failed"], found["duration"]) == (2, 0, 2.0)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (6, 4)
    assert (found["request_throughput"], found["output_throughput"], found["total_token_throughput"]) == (1, 2, 5)
    assert found["mean_ttft_ms"] == pytest.approx(510)
    assert found["std_ttft_ms"] == pytest.approx(490)
    assert found["p50_ttft_ms"] == found["median_ttft_ms"] == pytest.approx(510)
    assert found["p99.9_ttft_ms"] == pytest.approx(20 + 0.999 * 980)
    assert found["mean_tpot_ms"] == pytest.approx(15)
    assert found["mean_itl_ms"] == pytest.approx(15)
    assert found["mean_e2el_ms"] == pytest.approx((50 + 1000) / 2)
    assert found["request_goodput"] == 0.5
    assert found["max_output_tokens_per_s"] == 3
    assert found["max_concurrent_requests"] == 1
    assert not any("queue" in key for key in found)


def test_events_of_several_tokens() -> None:
    """TPOT goes by tokens, ITL by events."""
    found = client_metrics(result([sample(call(0), reply(0, [10, 50], output_tokens=9))]), Selection())
    assert found["mean_tpot_ms"] == pytest.approx(5)
    assert found["mean_itl_ms"] == pytest.approx(40)
    assert found["max_output_tokens_per_s"] == 9


def test_requests_at_once() -> None:
    spans = [(0, 30), (10, 20), (20, 40), (29, 31)]
    samples = [sample(call(i, due_ms=a), reply(a, [b])) for i, (a, b) in enumerate(spans)]
    assert client_metrics(result(samples), Selection())["max_concurrent_requests"] == 3


def test_the_wait_for_a_slot() -> None:
    waited = sample(call(0, due_ms=10), reply(40, [50]))
    chosen = Selection(metrics=("client_queue_time", "e2el_including_client_queue"))
    found = client_metrics(result([waited], loop="capped", max_concurrency=1), chosen)
    assert found["mean_client_queue_time_ms"] == pytest.approx(30)
    assert found["mean_e2el_including_client_queue_ms"] == pytest.approx(40)


def test_details() -> None:
    lists = details(three())
    assert {len(values) for values in lists.values()} == {3}
    assert lists["itls"][0] == pytest.approx([0.01, 0.02, 0.01])
    assert lists["ttfts"][1] is None
    assert lists["latencies"] == [pytest.approx(0.05), None, None]
    assert lists["generated_texts"] == ["abc", "", ""]
    assert lists["errors"][1] == "HTTP 503: full"


@pytest.mark.parametrize(("slow", "late"), [(0, False), (1, False), (3, True)])
def test_late_is_the_p99_lag(slow: int, late: bool) -> None:
    """Of 100 requests, `slow` were sent 50 ms late."""
    samples = [sample(call(i, due_ms=i), reply(i + (50 if i < slow else 1), [i + 60])) for i in range(100)]
    found = as_document(result(samples), About(api="openai"), Selection())
    assert found["late"] is late
    assert found["dispatch_lag_ms"]["max"] == pytest.approx(50 if slow else 1)
    assert any(line.startswith("late:") for line in warnings(found)) is late


def test_the_document_is_json() -> None:
    about = About(api="openai", model="org/m", metadata={"policy": "fcfs"}, settings={"x": math.nan}, exact=True)
    found = as_document(three(), about, Selection(goodput={"ttft": 5.0}), detailed=True)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    expected = {
        "format", "date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts",
        "request_rate", "burstiness", "max_concurrency", "duration", "completed", "failed", "total_input_tokens",
        "total_output_tokens", "request_throughput", "request_goodput", "output_throughput", "total_token_throughput",
        "max_output_tokens_per_s", "max_concurrent_requests", "input_lens", "output_lens", "ttfts", "itls",
        "start_times", "generated_texts", "errors", "policy",
    }  # fmt: skip
    expected |= {f"{s}_{m}_ms" for s in ("mean", "median", "std", "p99") for m in ("ttft", "tpot", "itl", "e2el")}
    assert expected <= set(found)
    assert (found["request_rate"], found["policy"], found["completed"], found["failed"]) == ("inf", "fcfs", 1, 2)
    assert found["failures"] == {"HTTP 503: full": 1, "broke": 1}
    assert found["counts"]["wrong_prompts"] == 1
    assert found["counts"]["wrong_outputs"] == 0
    assert any("2 requests failed" in line for line in warnings(found))
    assert "HTTP 503: full" in report(found)


def test_a_run_without_any_answer_can_be_reported() -> None:
    found = as_document(result([], planned=7, interrupted=True), About(api="openai"), Selection())
    assert (found["not_sent"], found["mean_ttft_ms"], found["dispatch_lag_ms"]["p99"]) == (7, None, None)
    assert "7 not sent" in report(found)
    ours = found["from_arrival"]
    assert (ours["n"], ours["unfinished"], ours["not_arrived"], ours["mean_jct_s"]) == (7, 7, 7, None)


def test_file_names() -> None:
    about = About(api="openai", model="org/some model", request_rate=2.5)
    run = result([], max_concurrency=4)
    assert file_name(run, about).startswith("openai-2.5qps-concurrency4-some_model-")
    assert file_name(result([]), About(api="native", label="a/b")).startswith("a_b-infqps-model-")


def test_saved_records_are_read_back(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    columns = three().columns()
    path = save_records(tmp_path / "run", columns, policy="fcfs", label="l", seed=3)
    table = pq.read_table(path)
    assert table.column_names == ["policy", "label", "seed", *columns]
    assert table["finish"].to_pylist() == columns["finish"].tolist()
    assert table["jct_from_arrival"].to_pylist()[1] is None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run.records.parquet"]


def test_the_simulators_table_and_files_read_them(tmp_path: Path) -> None:
    report = pytest.importorskip("sim.report.document")
    live = three()
    runs = [report.Run("fcfs", "fcfs", seed, {}, live.columns(), live.summary()) for seed in (0, 1)]
    assert "2 rejected" in report.table(runs, {"trace": "t"})
    assert report.write_out(tmp_path, {}, runs, csv=True)


def test_every_exported_name_is_there() -> None:
    for name in bench.__all__:
        assert getattr(bench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bench.nothing


def test_the_progress_line() -> None:
    live = three()
    progress = Progress([one.call for one in live.samples])
    progress.samples, progress.done, progress.failed, progress.tokens = live.samples, 2, 1, 10
    said = line(progress, 65_000_000_000)
    assert said.startswith("1:05  sent 3/3  running 1  done 2  failed 1  0.0 req/s, 0 tok/s  p99 lag 2.0 ms")
    assert "sent 0/1" in line(Progress([call()]), 0)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        save_document(tmp_path / "file" / "x.json", {})


def test_truncated_requests_stand_outside_all_times() -> None:
    run = result([sample(call(0), reply(0, [10, 30])), sample(call(1), reply(0, [1, 2], "truncated"))])
    columns, found = run.columns(), client_metrics(run, Selection())
    assert columns["finish"].tolist() == ["length", "truncated"]
    assert math.isnan(columns["jct_from_arrival"][1]) and columns["end"][1] == pytest.approx(0.002)
    assert (found["completed"], found["truncated"], found["failed"]) == (1, 1, 0)
    assert found["mean_e2el_ms"] == pytest.approx(30)
    assert run.summary()["mean_jct_s"] == pytest.approx(0.03) and run.summary()["truncated"] == 1
    document = as_document(run, About(api="openai"), Selection())
    assert "1 truncated" in report(document)
    assert any("truncated by the server" in warning for warning in warnings(document))
