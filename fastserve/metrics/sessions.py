"""The summary and the table of programs of a run whose requests wait for one another: simulated, live or a client's."""

from __future__ import annotations

from collections.abc import Sequence

from fastserve.metrics.columns import Columns as Table
from fastserve.metrics.programs import programs_saturated, summarise_programs, table_of, window_at_work
from fastserve.metrics.saturation import Columns as Rows
from fastserve.metrics.summary import Slo, Summary, summarise, with_not_arrived


def measured(
    columns: Rows,
    names: Sequence[str],
    members: Sequence[Sequence[int]],
    abandoned: Sequence[int],
    *,
    horizon_s: float,
    at_once: int | None = None,
    warmup_s: float = 0.0,
    after: Sequence[Sequence[int]] | None = None,
    alone: Sequence[float] | None = None,
    alone_turn: Sequence[float] | None = None,
    slo: Slo | None = None,
) -> tuple[Summary, Table]:
    """columns: records, by id. names, members, abandoned, alone, alone_turn: as table_of() takes them.

    at_once: programs of a closed loop, which sets the window of all rates. after: of an open loop, see
    summarise_programs().
    """
    table = table_of(
        columns, names, members, horizon_s=horizon_s, abandoned=abandoned, alone=alone, alone_turn=alone_turn
    )
    window = None if at_once is None else window_at_work(table, at_once, horizon_s, warmup_s)
    summary = summarise(columns, horizon_s=horizon_s, warmup_s=warmup_s, slo=slo, window=window)
    summary["saturated"] = None if at_once is not None else programs_saturated(table, horizon_s)
    planned = sum(map(len, members))
    summary = with_not_arrived(summary, planned - len(columns["id"]) - len(abandoned))
    programs = summarise_programs(
        table, columns, members, horizon_s=horizon_s, warmup_s=warmup_s, window=window, after=after
    )
    return summary | programs, dict(table)
