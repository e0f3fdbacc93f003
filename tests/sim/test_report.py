"""The table, the JSON document and the files that keep a run."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from matplotlib.colors import to_rgba

import sim.report.plot
from fastserve.atomic_files import OutputError, atomically
from fastserve.json_values import plain
from fastserve.metrics.summary import summarise
from fastserve.policies import POLICIES
from sim.report.document import document, table, write_out
from sim.report.plot import draw, picture
from sim.report.provenance import provenance
from sim.report.run import Run
from sim.report.style import LOOKS, SPARE, look, looks_of
from sim.settings import Settings
from tests.metrics.made import make_records

SETTINGS = {"trace": "by-hand", "rate_rps": 0.5, "load": 0.8, "max_batch": 16, "kv_tokens": 66144, "predictor": None}


def make_run(policy: str, seed: int = 0, scale: float = 1.0, label: str | None = None, **options: Any) -> Run:
    arrival = [2.0 * i for i in range(6)]
    jct = [scale * (1 + (i * (seed + 3)) % 5) for i in range(6)]
    records = make_records(arrival, jct, **options.pop("columns", {}))
    summary = summarise(records, horizon_s=100.0) | options.pop("summary", {})
    return Run(policy, label or policy, seed, options, records, summary)


def row_of(text: str, label: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(label))


def test_the_table_has_a_row_per_label_and_repeats_the_settings() -> None:
    text = table([make_run("fcfs"), make_run("mlfq", scale=2.0, q1="20 ms")], SETTINGS)
    for told in ("trace by-hand", "rate rps 0.5", "load 0.8", "max batch 16", "kv tokens 66,144", "predictor none"):
        assert told in text
    assert "n 6" in text
    assert "seed 0" in text
    assert "mlfq: q1=20 ms" in text
    assert row_of(text, "fcfs ").split()[1] == "2.67"
    assert row_of(text, "mlfq ").split()[1] == "5.33"
    assert row_of(text, "mlfq ").split()[-1] == "0.50"
    assert "nan" not in text.lower()


def test_a_run_in_which_nobody_waited_says_that_there_was_nothing_to_choose() -> None:
    idle = {"mean_queued_s": 0.001}
    told = "the rows are alike: nobody waited"
    assert told in table([make_run("fcfs", summary=idle), make_run("srpt", summary=idle)], SETTINGS)
    for others in (
        [make_run("srpt", scale=1.01, summary=idle)],
        [make_run("srpt", summary={"mean_queued_s": 2.0})],
        [make_run("fcfs", label="again", summary=idle)],
    ):
        assert told not in table([make_run("fcfs", summary=idle), *others], SETTINGS)


def test_a_day_that_is_cut_off_is_told_under_the_table() -> None:
    """n is of the recipe; six arrivals in 10 s came at half a request a second."""
    settings = SETTINGS | {"rate": 0.4, "synth": "n=6,rate=0.4,arrivals=diurnal:period=10"}
    told = " ".join(table([make_run("fcfs")], settings).split())
    assert "came at 0.5 requests/s where 0.4 were asked for" in told
    assert "came at" not in table([make_run("fcfs")], settings | {"synth": "n=6,rate=0.4"})


def test_seeds_are_averaged_and_the_ratio_is_paired_over_those_that_both_have() -> None:
    runs = [make_run("fcfs", seed) for seed in range(3)] + [make_run("srpt", seed, scale=0.5) for seed in (1, 2)]
    text = table(runs, SETTINGS)
    assert "seeds 0-2 (3)" in text
    mean = sum(float(run.summary["mean_jct_s"] or 0) for run in runs[:3]) / 3
    assert row_of(text, "fcfs ").split()[1] == f"{mean:.2f}"
    assert row_of(text, "srpt ").endswith(" 2.00"), "no interval of two pairs"


def test_numbers_line_up_on_the_right_within_100_columns() -> None:
    runs = [make_run("fcfs", seed) for seed in range(2)]
    runs += [make_run("fixed-priority", seed, scale=1234.5) for seed in range(2)]
    settings = {f"setting_{i}": "value" * 3 for i in range(20)}
    lines = table(runs, settings).splitlines()
    assert max(map(len, lines)) <= 100
    body = [line for line in lines if line.startswith(("fcfs ", "fixed-priority "))]
    heading = next(line for line in lines if line.startswith("policy"))
    assert all(line[len("fixed-priority")] == " " for line in body)
    assert len(heading) == max(map(len, body))


def test_saturated_and_collapsed_runs_are_marked() -> None:
    grown = {"saturated": True}
    stopped = {"saturated": True, "collapsed": True}
    text = table([make_run("fcfs"), make_run("mlfq", summary=stopped)], SETTINGS)
    assert row_of(text, "mlfq").startswith("mlfq *")
    assert "* mlfq: collapsed" in text
    # A queue that grew is only saturated, at any load and under any policy, while nobody stopped the run.
    text = table([make_run("fcfs"), make_run("mlfq", summary=grown | {"collapsed": False})], SETTINGS)
    assert "* mlfq: saturated" in text
    assert "collapsed" not in text
    seeds = [make_run("mlfq", seed, summary=stopped if seed else grown) for seed in range(3)]
    assert "* mlfq: collapsed in 2 of 3 seeds" in table(seeds, SETTINGS)
    text = table([make_run("fcfs", summary=grown), make_run("mlfq", summary=grown)], SETTINGS | {"load": 1.2})
    assert "* fcfs, mlfq: saturated" in text
    assert row_of(text, "mlfq").endswith(" *"), "nor is a ratio of theirs worth more than they are"
    text = table([make_run("fcfs"), make_run("mlfq", summary=stopped)], SETTINGS)
    assert row_of(text, "mlfq").endswith(" -"), "the means of what was stopped are lower bounds"
    assert "*" not in table([make_run("fcfs")], SETTINGS)


def test_every_setting_is_printed_and_the_usual_ones_stand_apart() -> None:
    changed = Settings(load=0.8, charging="tokens", warmup=30.0)
    shown = changed.shown(changed.hardware())
    text = table([make_run("fcfs")], shown)
    head, _, rest = text.partition("by default: ")
    usual = rest.partition("\n\n")[0].replace("\n  ", " ")
    for name in shown:
        item = re.compile(rf"(?:^|   |\n|, |: ){name.replace('_', ' ')}\b")
        assert bool(item.search(head)) != bool(item.search(usual)), name
    assert "charging tokens" in head
    assert "warmup 30" in head
    assert "evict policy" in usual
    assert "kv reserve 64" in usual
    assert "whole context" in usual.partition("; off: ")[2]


def test_lost_jobs_are_told() -> None:
    columns = {"finish": ["stop", "stop", "rejected", "unfinished", "unfinished", "stop"]}
    text = table([make_run("fcfs", columns=columns)], SETTINGS)
    assert "fcfs: 1 rejected, 2 unfinished of 6 jobs" in text
    assert "unfinished jobs count with the time they have waited so far" in text and "truncated" not in text


def test_a_pool_that_truncates_looks_no_faster() -> None:
    cut = {"finish": ["stop", "truncated", "stop", "stop", "truncated", "stop"]}
    runs = [make_run("fcfs"), make_run("small", columns=cut, scale=0.5), make_run("large", scale=0.5)]
    text = table(runs, SETTINGS)
    assert "small: 2 truncated of 6 jobs" in text and "small: no ratio, for fcfs truncated other jobs" in text
    assert row_of(text, "small ").split()[-1] == "-" and row_of(text, "large ").split()[-1] == "2.00"
    both = table([make_run("fcfs", columns=cut), make_run("srpt", columns=cut, scale=0.5)], SETTINGS)
    assert row_of(both, "srpt ").split()[-1] == "2.00" and "no ratio" not in both  # of the same jobs


def test_measures_without_a_value_are_dashes() -> None:
    text = table([make_run("fcfs", columns={"finish": ["rejected"] * 6})], {"trace": "t"})
    assert row_of(text, "fcfs").split()[1:5] == ["-"] * 4
    assert table([], SETTINGS) == "No run was finished."


def test_the_document_is_strict_json() -> None:
    run = make_run("fcfs", columns={"finish": ["rejected"] * 6}, summary={"odd": math.nan, "count": np.int64(3)})
    found = document({"kv_tokens": math.inf, "policies": ("fcfs",), "where": Path("x")}, [run])
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    assert found["settings"] == {"kv_tokens": None, "policies": ["fcfs"], "where": "x"}
    (one,) = found["runs"]
    assert set(one) == {"policy", "label", "seed", "settings", "summary"}
    assert one["summary"]["odd"] is None
    assert one["summary"]["mean_jct_s"] is None
    assert one["summary"]["count"] == 3


def test_plain_keeps_truth_values_and_sorts_sets() -> None:
    assert plain({"a": np.bool_(True), "b": {"y", "x"}, "c": np.array([1.5, math.nan])}) == {
        "a": True,
        "b": ["x", "y"],
        "c": [1.5, None],
    }


def test_written_files_read_back(tmp_path: Path) -> None:
    runs = [make_run("fcfs", 0), make_run("mlfq", 1, label="mine", columns={"client": list("aabbcc")})]
    paths = write_out(tmp_path / "deep" / "er", SETTINGS, runs, csv=True)
    assert sorted(path.name for path in (tmp_path / "deep" / "er").iterdir()) == sorted(path.name for path in paths)
    folder = tmp_path / "deep" / "er"
    assert json.loads((folder / "summary.json").read_text()) == document(SETTINGS, runs)
    kept = json.loads((folder / "run.json").read_text())
    assert kept["settings"] == SETTINGS
    assert {"commit", "dirty", "versions", "machine", "written_at"} <= set(kept["provenance"])

    records = pq.read_table(folder / "records.parquet")
    assert records.column_names[:4] == ["policy", "label", "seed", "id"]
    assert records["label"].to_pylist() == ["fcfs"] * 6 + ["mine"] * 6
    assert records["client"].to_pylist() == [""] * 6 + list("aabbcc")
    np.testing.assert_array_equal(records["end"].to_numpy()[6:], runs[1].records["end"])
    assert records["ttft_slo"].null_count == 12
    assert pc.read_csv(folder / "records.csv").num_rows == 12


def test_an_interrupted_run_leaves_what_was_finished(tmp_path: Path) -> None:
    write_out(tmp_path, SETTINGS, [])
    assert json.loads((tmp_path / "summary.json").read_text())["runs"] == []
    assert not (tmp_path / "records.parquet").exists()


def test_an_unwritable_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"^Cannot write .*run\.json: [^\n]+$"):
        write_out(tmp_path / "file", SETTINGS, [make_run("fcfs")])
    with pytest.raises(OutputError, match=r"^Cannot write .*jct_cdf\.pdf: [^\n]+$"):
        draw([make_run("fcfs")], tmp_path / "file")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_line_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("old")

    def overwrite() -> None:
        with atomically(path) as draft:
            draft.symlink_to("/dev/full")
            draft.write_text("new")

    with pytest.raises(OutputError, match="No space left on device"):
        overwrite()
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["summary.json"]


def test_what_breaks_off_while_writing_leaves_nothing_half_done(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"

    def break_off() -> None:
        with atomically(path) as draft:
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert list(tmp_path.iterdir()) == []


def test_figures_are_pdf_with_real_fonts_and_png(tmp_path: Path) -> None:
    runs = [make_run(policy, seed, label=label) for policy, label in CASES for seed in range(2)]
    paths = draw(runs, tmp_path)
    assert [path.name for path in paths] == ["jct_cdf.pdf", "jct_cdf.png", "jct_bars.pdf", "jct_bars.png"]
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b"%PDF" if path.suffix == ".pdf" else b"\x89PNG")
        assert b"/Type3" not in content
    with pytest.raises(ValueError, match="nothing to draw"):
        draw([], tmp_path)


CASES = [
    ("fcfs", "fcfs"),
    ("mlfq", "mlfq"),
    ("mlfq", "mlfq again"),
    ("mine:Mine", "mine:Mine"),
    ("srpt", "srpt (oracle)"),
]


def test_figures_of_a_run_in_which_nothing_was_done(tmp_path: Path) -> None:
    assert len(draw([make_run("fcfs", columns={"finish": ["rejected"] * 6})], tmp_path)) == 4


def test_a_policy_looks_the_same_everywhere() -> None:
    assert len({(known.colour, known.dash) for known in LOOKS.values()}) == len(LOOKS)  # there are more than colours
    assert len({known.colour for known in LOOKS.values()}) == 8
    assert len({known[1:] for known in LOOKS.values()}) == len(LOOKS), "nor by colour alone"
    assert set(POLICIES) <= set(LOOKS), "each shipped policy has a look of its own"
    assert len({spare[1:] for spare in SPARE}) == len({(one.colour, one.dash, one.marker) for one in SPARE}) == 20
    assert look("mlfq", 1)[:2] == look("mlfq")[:2]
    assert look("mlfq", 1) != look("mlfq")


def test_policies_of_ones_own_have_looks_in_order_of_appearance_and_none_by_colour_alone() -> None:
    """A hash chose before: two of one's own could look alike."""
    own = [f"policies{i}:Mine{i}" for i in range(14)]
    labels = {"fcfs": "fcfs", **{name: name for name in own}, "sj-mlfq": "sj-mlfq"}
    found = looks_of(labels)
    assert (found["fcfs"], found["sj-mlfq"]) == (LOOKS["fcfs"], LOOKS["sj-mlfq"])
    assert len({look[1:] for look in found.values()}) == len(labels), "marker and dash tell all of them in grey print"
    first = [look[1:] for name, look in found.items() if name in own[:4]]
    assert len({marker for marker, _ in first}) == len({dash for _, dash in first}) == 4
    # Names do not matter, only the order; known ones stay out of it.
    others = looks_of({"x:Y": "x:Y", "fcfs": "fcfs", "a:B": "a:B"})
    assert [others["x:Y"], others["a:B"]] == [found[own[0]], found[own[1]]]
    assert looks_of({"x:Y": "x:Y"})["x:Y"] == look("x:Y")


def test_labels_of_one_policy_share_its_colour_and_differ_otherwise() -> None:
    labels = (
        {f"mlfq q1={i}": "mlfq" for i in range(7)} | {"thunder": "thunder"} | {f"mine {i}": "m:Mine" for i in range(7)}
    )
    found = looks_of(labels)
    assert found["mlfq q1=0"] == LOOKS["mlfq"] and found["thunder"] == LOOKS["thunder"]
    assert {look.colour for label, look in found.items() if "mlfq" in label} == {LOOKS["mlfq"].colour}
    assert len({look.colour for label, look in found.items() if "mine" in label}) == 1
    assert len({look[1:] for look in found.values()}) == len(labels)


def test_a_policy_has_one_look_in_all_figures_of_a_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the CDF and of the bars, and of what a notebook shows."""
    runs = [
        make_run(name, label=label) for label, name in (("b", "x:B"), ("fcfs", "fcfs"), ("a", "x:A"), ("b2", "x:B"))
    ]
    colours = {label: to_rgba(look.colour) for label, look in looks_of({run.label: run.policy for run in runs}).items()}
    figure = picture(runs)
    lines = {str(line.get_label()): to_rgba(line.get_color()) for line in figure.axes[0].get_lines()}
    bars = [to_rgba(bar.get_facecolor()) for bar in figure.axes[1].patches]
    assert lines == colours and bars == list(colours.values())
    dashes = {line.get_linestyle() for line in figure.axes[0].get_lines()}
    assert len(dashes) == 4
    written: list[Any] = []
    monkeypatch.setattr(sim.report.plot, "save", lambda figure, stem: written.append(figure) or [stem])
    draw(runs, tmp_path)
    assert {str(line.get_label()): to_rgba(line.get_color()) for line in written[0].axes[0].get_lines()} == colours
    assert [to_rgba(bar.get_facecolor()) for bar in written[1].axes[0].patches] == bars


def test_provenance_knows_this_interpreter() -> None:
    found = provenance()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert json.loads(json.dumps(found)) == found


def test_reporting_loads_nothing_heavy_until_it_is_asked_to() -> None:
    code = "import sim.report.plot, sim.report.document, sys; print(*sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert not {"pandas", "pyarrow", "matplotlib"} & set(done.stdout.split())
