"""Priorities, clients and classes of synthetic requests: shares, streams of their own, errors, and what keeps them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sim
from fastserve.workload import Trace, TraceError, describe, read_trace, synthesise, write_trace
from fastserve.workload.agents import Agents
from fastserve.workload.seeds import RESAMPLES, Recorded, recipe_of
from fastserve.workload.statistics import Promised
from fastserve.workload.synthesis import Synthesis
from sim.trace import main

N = 20_000
ALL: dict[str, Any] = {
    "priorities": "0:0.8/1:0.15/2:0.05",
    "clients": "zipf:n=20,s=1.1",
    "classes": "chat:0.7:ttft=1s,tpot=0.1s/batch:0.3:e2e=60s",
}
COLUMNS = {
    "priorities": {"priority"},
    "clients": {"client"},
    "classes": {"slo_class", "ttft_slo", "tpot_slo", "e2e_slo"},
}


def near(share: float, n: int = N) -> Any:
    """Within four standard errors of a share of n independent draws."""
    return pytest.approx(share, abs=4 * (share * (1 - share) / n) ** 0.5)


def test_shares_are_as_asked() -> None:
    trace = synthesise(N, rate=2.0, **ALL)
    assert trace.priority is not None and trace.client is not None and trace.slo_class is not None
    for value, share in ((0, 0.8), (1, 0.15), (2, 0.05)):
        assert (trace.priority == value).mean() == near(share)
    weights = np.arange(1, 21) ** -1.1
    sent = Counter(trace.client)
    assert set(sent) == {f"client{k}" for k in range(1, 21)}
    for k in (1, 2, 5, 20):
        assert sent[f"client{k}"] / N == near(weights[k - 1] / weights.sum())
    assert trace.slo_class.count("chat") / N == near(0.7)
    chat = np.array(trace.slo_class) == "chat"
    assert trace.ttft_slo is not None and trace.tpot_slo is not None and trace.e2e_slo is not None
    assert trace.ttft_slo.tolist() == np.where(chat, 10**9, 0).tolist()
    assert trace.tpot_slo.tolist() == np.where(chat, 10**8, 0).tolist()
    assert trace.e2e_slo.tolist() == np.where(chat, 0, 60 * 10**9).tolist()
    # Drawn apart: urgent requests are no oftener of one class than others.
    assert (trace.priority[chat] == 0).mean() == near(0.8, int(chat.sum()))


def test_equal_shares_and_a_single_client() -> None:
    sent = Counter(synthesise(N, rate=1.0, clients="zipf:n=4,s=0").client or [])
    assert all(count / N == near(0.25) for count in sent.values()) and len(sent) == 4
    assert set(synthesise(50, rate=1.0, clients="zipf:1").client or []) == {"client1"}


@pytest.mark.parametrize("key", ALL)
def test_to_add_one_changes_nothing_else(key: str) -> None:
    def columns(trace: Trace) -> dict[str, Any]:
        names = ["arrival", "prompt", "output", *(name for names in COLUMNS.values() for name in names)]
        found = {name: getattr(trace, name) for name in names}
        return {name: value if value is None else list(value) for name, value in found.items()}

    whole, without = (columns(synthesise(300, rate=2.0, seed=5, **recipe)) for recipe in (ALL, ALL | {key: None}))
    plain = columns(synthesise(300, rate=2.0, seed=5))
    for name, values in whole.items():
        if name in COLUMNS[key]:
            assert values is not None and without[name] is None
        else:
            assert values == without[name], name
    assert [whole[name] for name in ("arrival", "prompt", "output")] == [
        plain["arrival"],
        plain["prompt"],
        plain["output"],
    ]
    # Other shares move only those between them: the same numbers are drawn.
    other = synthesise(300, rate=2.0, seed=5, priorities="0:0.7/1:0.25/2:0.05").priority
    base = synthesise(300, rate=2.0, seed=5, priorities=ALL["priorities"]).priority
    assert other is not None and base is not None
    assert 0 < np.count_nonzero(other != base) < 60 and bool((other >= base).all())


def test_seeds_draw_anew_and_the_same_seed_the_same() -> None:
    recipe = Synthesis(n=100, rate=1.0, **ALL)
    assert recipe.trace(1).digest() == recipe.trace(1).digest() != recipe.trace(2).digest()
    assert recipe.trace(1).client != recipe.trace(2).client


def test_a_recipe_is_read_as_it_is_written() -> None:
    text = "n=50,rate=2," + ",".join(f"{key}={spec}" for key, spec in ALL.items())
    recipe = Synthesis.parse(text)
    assert {key: getattr(recipe, key) for key in ALL} == ALL
    assert Synthesis.parse(str(recipe)) == recipe
    with pytest.raises(TraceError, match="sum to 0\\.9, not to 1"):
        Synthesis.parse("rate=1,classes=chat:0.5/batch:0.4")


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"priorities": "0:0.8/1:0.1"}, "the shares of the priorities in '0:0.8/1:0.1' sum to 0.9, not to 1"),
        ({"priorities": "0:nan/1:1"}, "the share of priority 0 in '0:nan/1:1' is nan"),
        ({"priorities": "0:-1/1:2"}, "it must be above 0 and at most 1"),
        ({"priorities": "high:1"}, "names no priority, a whole number; priorities are written 0:0.8"),
        ({"priorities": "0:0.5/0:0.5"}, "priority 0 is given twice"),
        ({"priorities": "0"}, "has no share, a number such as 0.7"),
        ({"priorities": "9999999999:1"}, "is not one from -2,147,483,648 to 2,147,483,647"),
        ({"clients": "zipf:n=0"}, "not a number of clients from 1 to 10,000,000"),
        ({"clients": "zipf:n=1e12"}, "not a number of clients from 1 to 10,000,000"),
        ({"clients": "zipf:n=2.5"}, "not a number of clients"),
        ({"clients": "zipf:n=5,s=-1"}, "it must be 0 (equal shares) or above"),
        ({"clients": "zipf:n=5,s=nan"}, "is not a finite number"),
        ({"clients": "zipf:s=1"}, "lacks n; write zipf:N,s=1.1; n comes first"),
        ({"clients": "20"}, "use one of zipf:N,s=1.1"),
        ({"classes": "chat:0.7:ttft=1s"}, "sum to 0.7, not to 1"),
        ({"classes": "chat:0.5:ttft=1s/chat:0.5"}, "class 'chat' is given twice"),
        ({"classes": ":1"}, "has no name; classes are written chat:0.7:ttft=1s"),
        ({"classes": "chat"}, "class 'chat' in 'chat' has no share"),
        ({"classes": "chat:1:speed=3"}, "class 'chat': slo 'speed=3': 'speed' is no objective"),
        ({"classes": "chat:1:ttft=nan"}, "class 'chat'"),
        ({"classes": "chat:1:attain=0.9"}, "attain is not an objective of a request but of a run"),
        ({"classes": ""}, "has no name"),
    ],
)  # fmt: skip
def test_nonsense_is_told(recipe: dict[str, str], says: str) -> None:
    with pytest.raises(TraceError) as caught:
        synthesise(10, rate=1.0, **recipe)
    assert says in str(caught.value)


def test_a_million_clients_and_decimal_shares() -> None:
    trace = synthesise(50_000, rate=10.0, clients="zipf:n=1000000,s=1.1", priorities="0:0.333/1:0.333/2:0.334")
    found = describe(trace).clients
    assert found is not None and next(iter(found)) == "client1" and len(found) > 5000


@pytest.mark.parametrize("how", RESAMPLES)
def test_seeds_of_a_recorded_trace_keep_what_requests_carry(how: str) -> None:
    """Each row stays one: its class, objectives, client and priority go with its lengths."""
    recorded = synthesise(200, rate=2.0, lengths="lognormal:6,2,1,100000", **ALL)
    source = Recorded(recorded, how, rows=50, seeds=3) if how == "windows" else Recorded(recorded, how)

    def rows(trace: Trace) -> list[tuple[Any, ...]]:
        names = ("prompt", "output", "client", "priority", "slo_class", "ttft_slo", "tpot_slo", "e2e_slo")
        return list(zip(*[list(getattr(trace, name)) for name in names], strict=True))

    known = set(rows(recorded))
    for seed in (0, 1, 2):
        assert set(rows(source.trace(seed))) <= known
    for changed in (recorded.window(10, 30), recorded.head(7), recorded.tiled(450), recorded.with_rate(9.0)):
        assert set(rows(changed)) <= known


def test_programs_of_agents_have_one_each_and_keep_it_when_resampled() -> None:
    recipe = recipe_of("agents:programs=12,priorities=0:0.5/1:0.5,clients=zipf:n=3,s=1,classes=a:0.5:e2e=60s/b:0.5")
    assert isinstance(recipe, Agents) and recipe_of(str(recipe)) == recipe
    trace = recipe.trace(4)
    plain = Agents(programs=12).trace(4)
    assert [trace.arrival.tolist(), trace.prompt.tolist(), trace.think] == [
        plain.arrival.tolist(), plain.prompt.tolist(), pytest.approx(plain.think)
    ]  # fmt: skip
    for made in (trace, *[Recorded(trace, how).trace(1) for how in ("blocks", "pairs")]):
        assert made.program is not None and made.slo_class is not None and made.client is not None
        assert made.priority is not None and made.e2e_slo is not None
        of = set(zip(made.program, made.slo_class, made.client, made.priority.tolist(), strict=True))
        assert len(of) == 12
        assert {name for _, name, _, _ in of} == {"a", "b"}
        assert made.e2e_slo.tolist() == [60 * 10**9 if name == "a" else 0 for name in made.slo_class]


def test_classes_are_written_and_read_and_described(tmp_path: Path) -> None:
    trace = synthesise(500, rate=2.0, **ALL)
    for name in ("t.jsonl", "t.jsonl.gz"):
        write_trace(trace, tmp_path / name)
        again = read_trace(tmp_path / name)
        assert again.digest() == trace.digest()
        assert again.slo_class == trace.slo_class
    off = read_trace(tmp_path / "t.jsonl", columns="slo_class=")
    assert off.slo_class is None and off.ttft_slo is not None
    found = describe(trace)
    assert trace.slo_class is not None and found.classes is not None and found.priorities is not None
    n = trace.slo_class.count("chat")
    assert found.classes == {
        "chat": Promised(n, (1.0, 1.0), (0.1, 0.1), None),
        "batch": Promised(500 - n, None, None, (60.0, 60.0)),
    }
    assert list(found.priorities) == [0, 1, 2] and sum(found.priorities.values()) == 500
    assert describe(synthesise(50, rate=1.0)).classes is None
    (tmp_path / "c.csv").write_text("arrival_s,prompt_tokens,output_tokens,slo_class\n0,1,2,a\n1,2,3,\n", "utf-8")
    assert read_trace(tmp_path / "c.csv").slo_class == ["a", ""]


def test_a_run_records_the_class_and_judges_by_its_objectives() -> None:
    trace = synthesise(300, rate=1.0, classes="quick:0.5:ttft=1us/slow:0.5:ttft=1000s", lengths="fixed:50")
    columns = sim.replay(trace, "fcfs").runs[0].records
    assert trace.slo_class is not None
    assert columns["slo_class"].tolist() == trace.slo_class
    summary = sim.replay(trace, "fcfs").summaries()
    assert summary["slo_attainment"][0] == pytest.approx(trace.slo_class.count("slow") / 300)


def test_the_command_makes_them_and_tells_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "t.jsonl")
    flags = [text for key, spec in ALL.items() for text in (f"--{key}", spec)]
    assert main(["synthesise", out, "-n", "400", "--rate", "2", "--arrivals", "mmpp", "--seed", "3", *flags]) == 0
    by_flags = read_trace(out).digest()
    recipe = "n=400,rate=2,arrivals=mmpp," + ",".join(f"{key}={spec}" for key, spec in ALL.items())
    assert main(["synthesise", out, "--synth", recipe, "--seed", "3"]) == 0
    assert read_trace(out).digest() == by_flags
    assert main(["describe", out]) == 0
    page = capsys.readouterr().out
    for told in (
        "  clients      20, the largest send",
        "  priorities   0 7",
        "  classes      chat: ",
        "ttft 1 s, tpot 0.1 s",
    ):
        assert told in page
    assert max(map(len, page.splitlines())) <= 120
    for flag in (["--classes", "a:1"], ["-n", "5"], ["--arrivals", "poisson"]):
        assert main(["synthesise", out, "--synth", recipe, *flag]) == 2
        assert "--synth holds the" in capsys.readouterr().err
    assert main(["synthesise", out, "--rate", "nan"]) == 2
    assert "a rate must be a positive number" in capsys.readouterr().err
