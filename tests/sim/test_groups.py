"""--by: tables, rows, JSON and figures of groups of jobs."""

import json
from pathlib import Path

import numpy as np
import pytest

import sim
from sim.__main__ import main
from sim.report.groups import LONGEST, cells_by, kinds, lines_by, split
from tests.sim.test_report import SETTINGS, make_run

pytest.importorskip("pandas")

AGENTS, CHAT = "traces/agents-like.jsonl", "traces/azure-conv-like.jsonl"
CLIENTS = {"client": list("aaabbc")}


def arena(tmp_path: Path, *names: str) -> str:
    """Requests of clients who take turns."""
    rows = [
        {"arrival_s": i / 4, "prompt_tokens": 50, "output_tokens": 5 + 40 * (i % 5), "client": names[i % len(names)]}
        for i in range(60)
    ]
    path = tmp_path / "arena.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_table_has_a_row_a_label_in_each_group_with_a_ratio_of_its_own() -> None:
    runs = [make_run("fcfs", columns=CLIENTS), make_run("mlfq", scale=2.0, columns=CLIENTS)]
    text = "\n".join(lines_by(runs, SETTINGS, "client:2", "mean_jct_s,ratio"))
    assert text == "\n".join([
        "", "by client: the 2 clients with the most jobs, and the others together", "",
        "                  jobs   mean   JCT ratio",
        "policy                  JCT s  fcfs / row",
        "-----------------------------------------",
        "a",
        "  fcfs               3   2.33           1",
        "  mlfq               3   4.67        0.50",
        "b",
        "  fcfs               2   4.00           1",
        "  mlfq               2   8.00        0.50",
        "the other client",
        "  fcfs               1   1.00           1",
        "  mlfq               1   2.00        0.50",
        "mean slowdown of the worst-off of these groups over that of the best-off: fcfs 1.71, mlfq 1.71",
        "Jain's index over all clients, tokens served a second of having work: fcfs 0.877, mlfq 0.877 (1:",
        "  alike)",
    ])  # fmt: skip


def test_cells_have_the_group_in_front() -> None:
    runs = [make_run("fcfs", columns=CLIENTS)]
    assert cells_by(runs, SETTINGS, "client", "mean_jct_s") == [
        ["", "", "jobs", "mean"],
        ["group", "policy", "", "JCT s"],
        ["a", "fcfs", "3", "2.33"],
        ["b", "fcfs", "2", "4.00"],
        ["c", "fcfs", "1", "1.00"],
    ]


def test_the_usual_table_stays_within_100_characters() -> None:
    runs = [
        make_run("fcfs", seed, label=label, columns=CLIENTS | {"e2e_slo": slo})
        for label in ("fcfs", "prefix-affinity + sj-mlfq (lognormal:0.5)")
        for seed in range(4)
        for slo in ([3.0] * 6,)
    ]
    assert max(map(len, lines_by(runs, SETTINGS, ["client", "length"]))) <= 100


def test_a_saturated_run_is_marked_in_its_groups() -> None:
    runs = [make_run("fcfs", columns=CLIENTS), make_run("mlfq", columns=CLIENTS, summary={"saturated": True})]
    rows = [line for line in lines_by(runs, SETTINGS, "client") if line.strip().startswith("mlfq")]
    assert len(rows) == 3 and all(row.strip().startswith("mlfq *") and row.endswith("*") for row in rows)


def test_names_that_a_terminal_should_not_get_are_cleaned() -> None:
    wild = ["\x1b[2J\n" + "x" * 500, "7"]
    runs = [make_run("fcfs", columns={"client": wild * 3})]
    names = split(runs, SETTINGS, "client").names
    assert names[0].isprintable() and len(names[0]) <= LONGEST and names[1] == "client 7"


def test_kinds_are_read_from_text_and_lists() -> None:
    assert kinds("client, length:8,client") == kinds(["client", "length:8"])
    assert kinds(None) == []
    with pytest.raises(ValueError, match="but by priority, client"):
        kinds("client,nothing")


def test_rows_of_a_result_sum_to_its_summaries(tmp_path: Path) -> None:
    result = sim.replay(arena(tmp_path, "ann", "bob", "eve"), ["fcfs", "srpt"], seeds=2, slo="e2e=2s", warmup=2.0)
    found = result.by("client")
    assert list(found.columns[:4]) == ["policy", "label", "seed", "group"] and len(found) == 3 * 2 * 2
    sums = found.groupby(["label", "seed"])[["n", "goodput_rps", "throughput_rps"]].sum()
    whole = result.summaries().set_index(["label", "seed"])[["n", "goodput_rps", "throughput_rps"]]
    np.testing.assert_allclose(sums.sort_index().to_numpy(), whole.sort_index().to_numpy())
    assert set(found["group"]) == {"ann", "bob", "eve"}


def test_rates_of_a_closed_loop_are_over_its_window() -> None:
    result = sim.replay(AGENTS, "fcfs", num_requests=120, sessions=3)
    found = result.by("length:3")
    assert found["rate_window_s"].unique() == pytest.approx([result.runs[0].summary["rate_window_s"]])
    assert found["throughput_rps"].sum() == pytest.approx(result.runs[0].summary["throughput_rps"])


def test_the_command_prints_draws_and_documents_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = arena(tmp_path, "ann", "bob", "eve")
    command = [trace, "--by", "client:2,length", "--slo", "e2e=2", "--plot", str(tmp_path / "drawn")]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "by client: the 2 clients with the most jobs" in told.out and "by length: tokens of the output" in told.out
    assert told.out.index("SLOs met: share") < told.out.index("by client") < told.out.index("fewest SLOs met")
    names = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert {"by_client.pdf", "by_client.png", "by_length.pdf", "by_length.png", "jct_cdf.pdf"} <= names
    assert b"/Type3" not in (tmp_path / "drawn" / "by_client.pdf").read_bytes()
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["by"]) == {"client", "length"}
    groups = document["by"]["client"]["groups"]
    assert [(row["label"], row["group"], row["n"]) for row in groups][:3] == [
        ("fcfs", "ann", 20), ("sj-mlfq", "ann", 20), ("fcfs", "bob", 20),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("priority", "does not tell the priority of its requests; there is length, prompt"),
        ("clients", "did you mean client?"),
        ("length:0", "write length:4 or length:log2"),
    ],
)
def test_what_cannot_be_grouped_by_is_told_before_anything_runs(
    by: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([CHAT, "--num-requests", "20", "--by", by]) == 2
    told = capsys.readouterr()
    assert said in told.err and not told.out


def test_a_figure_in_a_notebook_is_of_one_kind() -> None:
    result = sim.Result(dict(SETTINGS), [make_run("fcfs", columns=CLIENTS), make_run("mlfq", columns=CLIENTS)])
    figure = result.plot(by="client")
    assert [axes.get_xlabel() for axes in figure.axes] == ["mean JCT (s)", "p99 JCT (s)", "mean slowdown"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="give a folder for several"):
        result.plot(by="client,length")
