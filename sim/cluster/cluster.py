"""Cluster: replicas under one arrivals process and one clock, and the router between them.

Time goes from event to event: a replica's boundary, an arrival, a replica that fails, drains or returns. At one time:
boundaries, by number; what befalls replicas; arrivals, by (arrival, id), each routed by what all replicas are then;
whoever is at a boundary drains its inbox; plans. Nothing of a later time is known to anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike

from fastserve.flightlog.routes import RouteLog
from fastserve.metrics.finish import COMPLETED
from fastserve.metrics.records import Recorder
from fastserve.routers import Replica as Named
from fastserve.routers import Router, RouterError, RouterFacts, chosen
from fastserve.routers.spec import RouterSpec
from fastserve.sched.job import NEVER, Job
from sim.cluster.faults import BACK, DRAIN, FAIL, Fault, afresh
from sim.cluster.looks import Looks
from sim.cluster.replica import Replica
from sim.cluster.view import LiveView
from sim.inbox import Inbox
from sim.session_inbox import FedInbox

Make = Callable[["Cluster", int], Replica]
"""A fresh replica by its number: at the start, and when it comes back."""
Look = Callable[[Replica, int], object]
Note = Callable[[Job, int, str], object]
"""Told of what happens to a job between replicas: at which time, ns, and in words."""


class Cluster:
    """One run. arrivals: of all. make: see Make. names: a name and a weight of each replica. hop: ns from the router to
    a replica. view_delay: ns by which views are old. faults: by time. resend_all: whether jobs that have had a token
    are sent again where a replica fails; else they end with an error, as a stream does through the gateway.

    seed: of the router's randomness. unit_tokens: of one of job.ids. watch: told how many jobs just finished.
    """

    def __init__(
        self,
        arrivals: Inbox,
        router: Router,
        make: Make,
        names: list[Named],
        recorder: Recorder,
        *,
        hop: int = 0,
        view_delay: int = 0,
        faults: tuple[Fault, ...] = (),
        resend_all: bool = False,
        max_backlog: int | None = None,
        watch: Callable[[int], object] | None = None,
        seed: int = 0,
        unit_tokens: int = 0,
    ) -> None:
        self.inbox = arrivals
        self.fed = arrivals if isinstance(arrivals, FedInbox) else None
        self.router = router
        self.make = make
        self.names = names
        self.refused = recorder  # of jobs that no replica could be asked for
        self.hop = hop
        self.faults = list(reversed(faults))
        self.resend_all = resend_all
        self.max_backlog = NEVER if max_backlog is None else max_backlog
        self.watch = watch
        self.collapsed = False
        self.stopped = False  # asked for from outside: the run ends at the next event
        self.closely = bool(faults) or max_backlog is not None  # there is more to look at than arrivals and ends
        self.now = 0  # ns: the last time at which something ended
        self.guesses = "guess" in router.needs
        self.hears_sent = self.hears_ended = True  # the router listens to what is sent, and to what has ended
        self.answers = 0  # jobs that ended by themselves, and their output tokens
        self.answered = 0
        self.tokens: dict[Job, int] = {}  # of who has been sent and has not ended: as outstanding_tokens counts it
        self.resent: dict[int, int] = {}  # by id of who was sent again: how often
        self.lost_tokens = 0  # output tokens that were made and then made again
        self.tried: dict[int, set[Replica]] = {}  # by id of who was sent again: where it was when that failed
        self.programs: dict[str, set[int]] = {}  # whose jobs are where, of those that will end
        self.ends: list[int] = [NEVER] * len(names)
        self.returning: set[int] = set()  # drained ones that come back as soon as their last job has ended
        self.looks: list[Look] = []
        self.past: list[Replica] = []  # that failed, or were drained, and have come back
        self.view_delay = view_delay
        self.replicas: list[Replica] = []
        self.replicas += [make(self, number) for number in range(len(names))]
        self.seen = Looks(self.replicas, view_delay)
        self.views = [
            LiveView(replica, name.name, name.weight, self.seen)
            for replica, name in zip(self.replicas, names, strict=True)
        ]
        self.open = list(self.views)  # which may be chosen
        self.facts = RouterFacts(tuple(names), unit_tokens, seed)
        self.log: RouteLog | None = None
        self.notes: list[Note] = []

    def attach_each(self, look: Look) -> None:
        """Before run(): look(replica, life) attaches observers to each replica, and to each that comes back. life: 1 at
        first.
        """
        self.looks.append(look)
        for replica in self.replicas:
            look(replica, 1)

    def log_routes(self, path: str | PathLike[str], spec: RouterSpec) -> None:
        """Before run(): writes what the router, made from `spec`, is told and chooses. Raises OSError."""
        self.log = RouteLog(path, spec, self.facts, wait=True)
        self.router = self.log.around(self.router)

    # -- time ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until every job has ended, the backlog has passed its bound, or somebody has set `stopped`.

        Raises PolicyError, RouterError; ObserverError where an observer breaks.
        """
        router = self.router
        self.hears_sent = type(router).sent is not Router.sent
        self.hears_ended = type(router).ended is not Router.ended
        self._tell("begin", None, self.facts)
        for replica in self.replicas:
            self._began(replica, 0)
        try:
            self._turns()
            for replica in self.replicas:
                if not replica.dead:
                    if replica.scheduler.live and not (self.stopped or self.collapsed):
                        raise replica.stuck()
                    replica.recorder.ended(self.now)
        finally:
            for replica in self.replicas:
                replica.observers.ended(self.now)
            if self.log is not None:
                self.log.close()

    def _began(self, replica: Replica, now: int) -> None:
        replica.recorder.began(replica.observers.run, now)
        if self.view_delay:
            replica.remembers = True
            replica.moment(now)

    def _turns(self) -> None:
        """One time after the other. What is rare goes through _settle(); the rest is what that would do, at once."""
        ends, inbox, replicas = self.ends, self.inbox, self.replicas
        end = min(ends)
        while not (self.stopped or self.collapsed):
            at = inbox.at
            now = end if end < at else at
            if now == NEVER:
                return
            if self.faults and self.faults[-1].at <= now:
                self._settle(self.faults[-1].at, [])
                end = min(ends)
                continue
            if at < end:
                for job in inbox.arrived(at):
                    self._route(job, at)
                end = min(ends)
                if end <= at or inbox.at <= at:
                    self._settle(at, [])
                    end = min(ends)
                continue
            self.now = now
            number = ends.index(now)
            replica = replicas[number]
            replica.finish(now)
            end = min(ends)
            if inbox.at > now and end > now and not self.closely:
                box = replica.box
                while box.at <= now:
                    replica.drain(now)
                if self.fed is None or (inbox.at > now and min(ends) > now):
                    replica.begin(now)
                    end = min(end, ends[number]) if self.fed is None else min(ends)
                    continue
            self._settle(now, [replica])
            end = min(ends)

    def _settle(self, now: int, ready: list[Replica]) -> None:
        """All that (yet) happens at one time. ready: who is at a boundary already."""
        ends, inbox = self.ends, self.inbox
        while True:
            if min(ends) <= now:
                self._boundaries(now, ready)
            while self.faults and self.faults[-1].at <= now:
                self._befalls(self.faults.pop(), now, ready)
            if inbox.at <= now:
                for job in inbox.arrived(now):
                    self._route(job, now)
                continue
            again = False
            for replica in ready:
                while replica.inbox.at <= now:
                    replica.drain(now)
                    again = True
            if not again and min(ends) > now and not (self.faults and self.faults[-1].at <= now):
                break
        if self.max_backlog < NEVER and self._backlog() > self.max_backlog:
            self.collapsed = True
            return
        for replica in ready:
            replica.begin(now)

    def _backlog(self) -> int:
        return sum([len(replica.scheduler.live) for replica in self.replicas if not replica.dead])

    def _boundaries(self, now: int, ready: list[Replica]) -> None:
        self.now = now
        for number, end in enumerate(self.ends):
            if end <= now:
                replica = self.replicas[number]
                replica.finish(now)
                ready.append(replica)

    # -- who goes where --------------------------------------------------------------------------------------------

    def _route(self, job: Job, now: int) -> None:
        views = self.open
        if self.tried and job.id in self.tried:
            tried = self.tried[job.id]
            views = [view for view in views if view.of not in tried]
        if not views:
            self.refused.rejected(job, now, "no replica takes requests")
            if self.notes:
                self._note(job, now, "refused: no replica takes requests")
            self._over(job, now)
            return
        router = self.router
        self.seen.begin(now, views)
        mean = self.answered // self.answers if self.answers else 0
        if self.guesses and job.guess is None:
            job.guess = mean
        view = views[chosen(router, job, views)]
        tokens = self.tokens[job] = job.prompt + (mean if job.guess is None else job.guess)
        view.outstanding += 1
        view.outstanding_tokens += tokens
        if job.program and self.fed is not None:
            self.programs.setdefault(job.program, set()).add(view.replica)
        if self.hears_sent:
            self._tell("sent", job, view.replica, now)
        if self.notes:
            self._note(job, now, f"routed to {view.name}, one of {len(views)}{self._reason(job)}")
        view.of.deliver(job, now, now + self.hop)

    def _reason(self, job: Job) -> str:
        try:
            said = self.router.explain(job)
        except Exception as error:
            raise RouterError(self.router, "explain", job, error) from error
        return f": {said}" if said else ""

    def _note(self, job: Job, now: int, what: str) -> None:
        for note in self.notes:
            note(job, now, what)

    def _tell(self, method: str, job: Job | None, *facts: object) -> None:
        """The router, of something that has happened."""
        try:
            call = getattr(self.router, method)
            if job is None:
                call(*facts)
            else:
                call(job, *facts)
        except Exception as error:
            raise RouterError(self.router, method, job, error) from error

    def gone(self, replica: Replica, job: Job, now: int) -> None:
        """The job is over there, as job.finish says."""
        view = self.views[replica.number]
        view.outstanding -= 1
        view.outstanding_tokens -= self.tokens.pop(job)
        tokens = job.generated
        if job.finish in COMPLETED:
            self.answers += 1
            self.answered += tokens
        if self.hears_ended:
            self._tell("ended", job, replica.number, now, tokens)
        if self.watch is not None:
            self.watch(1)
        if self.fed is not None:
            self._over(job, now)
        if self.returning and replica.number in self.returning and not self.views[replica.number].outstanding:
            self.returning.discard(replica.number)
            self.faults.append(Fault(now, BACK, replica.number))

    def _over(self, job: Job, now: int) -> None:
        """It is over for good: what waits for it comes, or is abandoned."""
        fed = self.fed
        if fed is None:
            return
        fed.left(job, now)
        for program in fed.ended():
            for number in sorted(self.programs.pop(program, ())):
                if not self.replicas[number].dead:
                    self.replicas[number].tell(program, now)

    # -- what befalls replicas -------------------------------------------------------------------------------------

    def _befalls(self, fault: Fault, now: int, ready: list[Replica]) -> None:
        number = fault.replica
        view = self.views[number]
        if fault.what == FAIL:
            self._fail(number, now, ready)
        elif fault.what == DRAIN:
            self.open = [other for other in self.open if other is not view]
        elif view.outstanding:  # it was drained, and comes back when it has finished
            self.returning.add(number)
        else:
            self._return(number, now, ready)

    def _fail(self, number: int, now: int, ready: list[Replica]) -> None:
        """Its process dies. Whoever has had no token is sent elsewhere; who has had one ends with an error, or is sent
        again too.
        """
        view, replica = self.views[number], self.replicas[number]
        self.now = now
        self.open = [other for other in self.open if other is not view]
        self.returning.discard(number)
        again: list[Job] = []
        broken: list[Job] = []
        for job in replica.fail(now):
            had = replica.recorder.first_token(job) >= 0
            if had and not self.resend_all:
                replica.end(job, "error", now)
                broken.append(job)
            else:
                self.lost_tokens += job.generated
                again.append(job)
            view.outstanding -= 1
            view.outstanding_tokens -= self.tokens.pop(job)
            if self.notes:
                then = "ends with an error" if job.finish else f"is sent again, {job.generated:,} tokens are lost"
                self._note(job, now, f"{view.name} has failed: it {then}")
            self._tell("failed", job, number, now)
        if replica in ready:
            ready.remove(replica)
        self.ends[number] = NEVER
        replica.observers.ended(now)
        self._tell("lost", None, number, now)
        for job in broken:
            self._over(job, now)
        for job in again:
            self.resent[job.id] = self.resent.get(job.id, 0) + 1
            self.tried.setdefault(job.id, set()).add(replica)
            self._route(afresh(job), now)

    def _return(self, number: int, now: int, ready: list[Replica]) -> None:
        """A fresh process in its place: its caches are empty."""
        old = self.replicas[number]
        if not old.dead:
            old.dead = True
            old.observers.ended(now)
            self._tell("lost", None, number, now)
        if old in ready:
            ready.remove(old)
        self.past.append(old)
        for where in self.programs.values():
            where.discard(number)
        self.ends[number] = NEVER
        replica = self.replicas[number] = self.make(self, number)
        view = self.views[number]
        view.stands_for(replica)
        life = 1 + sum([other.number == number for other in self.past])
        for look in self.looks:
            look(replica, life)
        self._began(replica, now)
        name = self.names[number]
        self._tell("came", None, number, name.name, name.weight, now)
        self.open = [other for other in self.views if other in self.open or other is view]
