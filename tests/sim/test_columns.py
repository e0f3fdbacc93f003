"""--show: every measure of a summary is a column, by its name or in a group, and what is none is told."""

import pytest

import sim
from sim.__main__ import main
from sim.report.columns import GROUPS, HEADINGS, PROGRAMS, RATIO, SPARED, USUAL, WIDE, WITH_SLO, shown
from sim.report.table import rows, table
from tests.sim.test_report import SETTINGS, make_run, row_of

CHAT, AGENTS = "traces/azure-conv-like.jsonl", "traces/agents-like.jsonl"


def heading(text: str) -> list[str]:
    """Both lines of each heading of the only table."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("----"))
    return " ".join(lines[at - 2 : at]).split()


def test_every_measure_is_a_column_and_every_column_a_measure() -> None:
    keys = {RATIO, "load", "swap_gib"}  # of two rows, of the settings, of two measures
    for trace, more in ((CHAT, {"replicas": 2}), (AGENTS, {})):
        for run in sim.replay(trace, "fcfs", num_requests=20, **more).runs:
            keys |= set(run.summary)
    assert keys - set(HEADINGS) == {"saturated", "collapsed", "replicas"}  # marks, and a setting
    assert set(HEADINGS) <= keys


def test_names_and_groups_are_shown_in_the_order_in_which_they_are_named() -> None:
    assert shown("p99_ttft_s, mean-jct-s,p99_ttft_s").requests == ["p99_ttft_s", "mean_jct_s"]
    assert shown(["rates"]).requests == list(GROUPS["rates"])
    assert shown("default,p99_ttft_s").requests == [*USUAL[:-1], "p99_ttft_s", RATIO]
    assert shown("programs").programs == list(PROGRAMS) and shown("programs").requests == USUAL
    assert shown(None, slo=True).requests == WITH_SLO
    assert [key for key in WIDE if key not in shown("wide").requests] == ["goodput_rps", "slo_attainment"]


def test_a_name_that_is_none_is_told_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([CHAT, "--show", "mean_jct_s,goodput"]) == 2
    told = capsys.readouterr()
    assert "there is no column 'goodput'; did you mean goodput_rps?" in told.err and not told.out
    assert "groups are default, wide, all, jct," in told.err and "{mean,p50,p95,p99,max}_ttft_s" in told.err
    with pytest.raises(ValueError, match="no column is named"):
        shown(" , ")


def test_the_usual_table_stays_within_100_characters_whatever_the_labels() -> None:
    long = "prefix-affinity + a policy with a long label"
    runs = [make_run("fcfs", seed, label=label) for label in ("fcfs", long) for seed in range(4)]
    text = table(runs, SETTINGS)
    assert max(map(len, text.splitlines())) <= 100
    assert f"no room for {SPARED[0]}" in text and "JCT ratio" in text
    assert "no room" not in table(runs, SETTINGS, "default"), "what is asked for is shown"
    assert max(map(len, table(runs, SETTINGS, "default").splitlines())) > 100
    assert "no room" not in table([make_run("fcfs"), make_run("sj-mlfq (lognormal)")], SETTINGS)


def test_objectives_bring_their_columns() -> None:
    columns = {"e2e_slo": [3.0] * 6}
    text = table([make_run("fcfs", columns=columns), make_run("mlfq", scale=2.0, columns=columns)], SETTINGS)
    assert "goodput" in heading(text) and "SLOs" in heading(text) and "slowdown" not in heading(text)
    assert row_of(text, "fcfs ").split()[-2] == "0.667" and row_of(text, "mlfq ").split()[-2] == "0.333"
    assert "met the objectives that they bring" in " ".join(text.split())
    assert "goodput" not in heading(table([make_run("fcfs")], SETTINGS))


def test_slo_sets_objectives_and_says_who_met_the_share(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["--policy", "fcfs", "--policy", "srpt", "--num-requests", "60", "--load", "0.9"]
    assert main([CHAT, *rows, "--slo", "ttft=100ms,attain=99%"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "slo ttft=0.1s,attain=0.99" in text and "attain=0.99: fcfs, srpt (oracle) did not" in text
    assert "met ttft=0.1s, or what they bring instead of these" in text
    result = sim.replay(CHAT, "fcfs", num_requests=60, load=0.9, slo="ttft=100ms")
    records, summary = result.runs[0].records, result.runs[0].summary
    assert summary["slo_attainment"] == pytest.approx((records["ttft"] <= 0.1).mean())
    assert 0 < float(summary["slo_attainment"] or 0) < 1
    assert main([CHAT, "--slo", "ttfs=1"]) == 2
    assert "did you mean ttft?" in capsys.readouterr().err


def test_all_is_a_table_a_group_of_what_has_a_value() -> None:
    text = table([make_run("fcfs"), make_run("mlfq")], SETTINGS, "all")
    lines = text.splitlines()
    assert [line[:-1] for line in lines if line.endswith(":") and line[:-1] in GROUPS] == [
        name for name in GROUPS if name not in ("fairness", "cluster")
    ]
    assert max(map(len, lines)) <= 120


def test_rows_are_the_cells_of_the_table() -> None:
    runs = [make_run("fcfs"), make_run("mlfq", scale=2.0)]
    found = rows(runs, SETTINGS, "mean_jct_s,ratio")
    assert found == [["", "mean", "JCT ratio"], ["policy", "JCT s", "fcfs / row"], ["fcfs", "2.67", "1"],
                     ["mlfq", "5.33", "0.50"]]  # fmt: skip
    assert len({len(row) for row in rows(runs, SETTINGS, "all")}) == 1
    assert rows([], SETTINGS) == [["policy"], [""]]
