"""One run of a cluster: one trace, one policy, one router, one seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastserve import predictors
from fastserve.policies.spec import PolicySpec
from fastserve.workload import Trace
from fastserve.workload.content import Content
from fastserve.workload.requests import guesses_of, outputs_of
from sim.cluster.cluster import Cluster
from sim.cluster.inbox import ReplicaInbox
from sim.cluster.records import NOWHERE, merged, replica_table, summed_up
from sim.cluster.replica import Replica
from sim.link import Link
from sim.machine import Alone
from sim.parts import accepted, inbox_of, machine_of, measures, recorder_of, row, to_its_end, unlimited
from sim.prepared import Prepared
from sim.report.run import Run
from sim.session_inbox import SessionInbox
from sim.settings import Settings


def build(
    trace: Trace,
    spec: PolicySpec,
    settings: Settings,
    seed: int,
    watch: Callable[[int], object] | None = None,
    shared: Content | None = None,
) -> Cluster:
    """A Cluster ready to run. shared: what the prompts share, which is cached."""
    if shared is not None:
        settings = settings.with_(prefix_cache="on", prefix_tokens=shared.unit)
    router = settings.router_spec.fresh()
    each = [settings.of_replica(number) for number in range(settings.replicas)]
    machines = [one.hardware() for one in each]
    outputs = outputs_of(trace)
    longest = int(trace.prompt.max())
    hardware = settings.hardware()
    alone = Alone(hardware.latency, settings.budget if settings.batching == "chunked" else None)
    guessed = "guess" in spec.fresh().needs or ("guess" in router.needs and settings.predictor != "none")
    predictor = predictors.make(settings.predictor, seed, guesses_of(trace)) if guessed else None
    arrivals = inbox_of(trace, settings, seed, predictor, shared)
    patience = None
    if isinstance(arrivals, SessionInbox):
        patience, arrivals.patience = arrivals.patience, None  # a client waits for whoever has its request

    def make(cluster: Cluster, number: int) -> Replica:
        own, machine = each[number], machines[number]
        scheduler = own.scheduler(spec.fresh(), machine, longest, accepted(trace, machine))
        link = Link(machine.link, machine.memory.block_bytes)
        box = ReplicaInbox(patience)
        body = machine_of(trace, own, seed, machine, link, box, outputs, shared)
        recorder = recorder_of(trace, machine, alone)
        about = {"trace": trace.name, "policy": row(spec, settings), "seed": seed, "replica": number}
        return Replica(number, scheduler, body, link, box, recorder, cluster.ends, cluster.gone, about)

    return Cluster(
        arrivals, router, make, settings.named, recorder_of(trace, hardware, alone), hop=round(settings.hop * 1e9),
        view_delay=round(settings.view_delay * 1e9), faults=settings.faults,
        resend_all=settings.resend == "all", max_backlog=settings.max_backlog, watch=watch, seed=seed,
        unit_tokens=0 if shared is None else shared.unit,
    )  # fmt: skip


def run_cluster(
    trace: Trace,
    spec: PolicySpec,
    settings: Settings,
    seed: int,
    *,
    shown: dict[str, Any] | None = None,
    watch: Callable[[int], object] | None = None,
    observe: Callable[[Cluster], None] | None = None,
    prepared: Prepared | None = None,
) -> Run:
    """As sim.run.run_one(), of settings with a router."""
    prepared = prepared or Prepared()
    shared = prepared.content(trace, settings)
    cluster = build(trace, spec, settings, seed, watch, shared)
    if observe is not None:
        observe(cluster)
    own = spec.told(cluster.replicas[0].scheduler.policy) | (shown or {})
    to_its_end(cluster)
    if cluster.stopped:
        own["interrupted"] = True
    lives = [*cluster.past, *cluster.replicas]
    recorders = [(replica.number, replica.recorder) for replica in lives]
    columns = merged([*recorders, (NOWHERE, cluster.refused)], cluster.resent, shared)
    summary, programs = measures(cluster.inbox, cluster.now, columns, trace, settings, prepared)
    table = replica_table(
        columns,
        [name.name for name in cluster.names],
        [name.weight for name in cluster.names],
        [sum([life.busy for life in lives if life.number == number]) for number in range(settings.replicas)],
        cluster.now,
    )
    of = [recorder for _, recorder in recorders]
    decodes = sum([recorder.decodes for recorder in of])
    plans = sum([life.scheduler.plans for life in lives])
    summary["plans"] = plans
    summary["iterations"] = sum([recorder.iterations for recorder in of])
    summary["tokens_per_decode"] = (decodes + sum([recorder.beyond for recorder in of])) / decodes if decodes else None
    summary["scheduling_events"] = plans + sum([recorder.joins + recorder.leaves for recorder in of])
    summary["collapsed"] = cluster.collapsed
    summary["hit_rate_unlimited"] = None if shared is None else unlimited(shared, trace, columns, summary, settings)
    summary |= summed_up(table, columns, cluster.lost_tokens)
    own["router"] = {"name": settings.router_spec.name, "settings": settings.router_spec.settings}
    return Run(spec.name, row(spec, settings), seed, own, columns, summary, programs, table)
