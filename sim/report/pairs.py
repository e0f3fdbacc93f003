"""What may be compared with what: the ratio of two labels, and the marks of runs that have none or one to doubt."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastserve.metrics.finish import same_work
from fastserve.metrics.intervals import Ratio, paired_ratio
from sim.report.run import Run


def mark(group: Sequence[Run]) -> str | None:
    """Collapsed: the run was stopped for its backlog. Saturated: the queue grew to the end."""
    collapsed = [run for run in group if run.summary.get("collapsed")]
    if collapsed:
        share = _share(collapsed, group)
        return f"collapsed{share}: stopped when more jobs were waiting than --max-backlog allows; no ratio"
    grown = [run for run in group if run.summary["saturated"]]
    if grown:
        share = _share(grown, group)
        return f"saturated{share}: the queue grew to the end, so means and ratios depend on the trace's length"
    return None


def _share(some: Sequence[Run], group: Sequence[Run]) -> str:
    return f" in {len(some)} of {len(group)} seeds" if len(group) > 1 else ""


def jct_ratio(first: Sequence[Run], group: Sequence[Run], settings: Mapping[str, Any]) -> Ratio | None:
    """Paired over the common seeds: an interrupted run may lack some. None where the two truncated different jobs."""
    cut_short = any(run.summary.get("collapsed") or run.settings.get("interrupted") for run in (*first, *group))
    if cut_short or not same_jobs(first, group):
        return None
    mine = {run.seed: run.summary["mean_jct_s"] for run in group}
    pairs = [(run.summary["mean_jct_s"], mine.get(run.seed)) for run in first]
    both = [(base, other) for base, other in pairs if base and other]
    if not both:
        return None
    return paired_ratio([base for base, _ in both], [other for _, other in both], samples=settings.get("samples"))


def same_jobs(first: Sequence[Run], group: Sequence[Run]) -> bool:
    """Whether they are, under every common seed (see same_work)."""
    others = {run.seed: run for run in group}
    pairs = [(run, other) for run in first if (other := others.get(run.seed)) is not None]
    return all(same_work(one.records, other.records) for one, other in pairs)
