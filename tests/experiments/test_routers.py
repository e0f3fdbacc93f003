"""experiments.routers at its smallest: what it claims is about the runs that it made, and its figures can be drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments import routers
from experiments._lib.case import Row, point

pytest.importorskip("matplotlib")

TINY = replace(routers.SCALES["smoke"], seeds=1, few=1, requests=120, agents=(8,))


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [Row(case.at, case.seed, routers.run(case)) for case in routers.cases(TINY)]


def test_every_router_under_every_policy_and_every_rule_at_every_age(rows: list[Row]) -> None:
    both = [row.at for row in rows if row.at["part"] == "both"]
    assert len(both) == 2 * (len(routers.BY_LOAD) + len(routers.ROUTERS))
    assert len(rows) - len(both) == 2 * len(routers.OLD)


def test_a_router_that_keeps_a_program_together_finds_its_context(rows: list[Row]) -> None:
    def hits(router: str) -> float:
        return point(rows, part="both", trace="agents-like", router=router, policy="fcfs").mean("hit_rate")

    assert hits("session") > hits("random") + 0.2
    assert hits("prefix") > hits("random") + 0.2


def test_old_views_send_a_herd_and_what_was_sent_since_stops_it(rows: list[Row]) -> None:
    def jct(router: str, delay: float) -> float:
        return point(rows, part="old views", router=router, delay=delay).mean("mean_jct_s")

    assert jct("least-tokens as told", 3.0) > 1.05 * jct("random", 3.0)
    assert jct("least-tokens", 3.0) < jct("random", 3.0)
    assert jct("least outstanding (own count)", 3.0) == jct("least outstanding (own count)", 0.0)


def test_claims_and_figures(rows: list[Row], tmp_path: Path) -> None:
    found = routers.claims(rows)
    texts = [claim.text for claim in found]
    assert len(set(texts)) == len(texts)
    assert "views 3 s old: mean JCT, random over least-tokens as told" in texts
    assert "age from which random is better than least outstanding (own count)" in texts
    ages = next(claim for claim in found if claim.text.endswith("random is better than least-tokens as told"))
    assert ages.shown == "3 s"
    routers.plot(rows, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "routers.pdf",
        "routers.png",
        "old_views.pdf",
        "old_views.png",
    }


def test_both_over_the_product() -> None:
    """4 s without, 2 s with the router or with the policy alone, 0.5 s with both: they help each other."""
    times = {("round-robin", "fcfs"): 4.0, ("session", "fcfs"): 2.0}
    times |= {("round-robin", "lpm"): 2.0, ("session", "lpm"): 0.5}
    made = [Row({"router": a, "policy": b}, 0, {"mean_jct_s": time}) for (a, b), time in times.items()]
    assert routers._over_product(made, point(made, router="session", policy="lpm"), "mean_jct_s") == 2.0
