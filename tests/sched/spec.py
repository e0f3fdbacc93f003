"""The specification: one iteration at a time, every rank re-read, every live job sorted, nothing remembered but facts.

Slow on purpose. It shares the latency model's iteration_ps() and verify_ps() with the brain and nothing else.
"""

from __future__ import annotations

from fastserve.sched.job import COMING, DEVICE, HOST, LEAVING, NEVER, NOWHERE
from fastserve.sched.policy import KEEP, Policy

NAN = float("nan")


class SpecJob:
    def __init__(self, job):
        facts = ("id", "arrival", "prompt", "limit", "client", "program", "priority", "deadline", "guess", "ids",
                 "tool", "final")  # fmt: skip
        for name in facts:
            setattr(self, name, getattr(job, name))
        self.shared = 0  # units of its prompt that it holds
        self.found = None  # tokens that it found when it first joined, and how many of these were loaded
        self.from_host = 0
        self.spec = None
        self.running = self.complete = False  # complete: its KV is, but for the newest token
        self.generated = job.tokens_base
        self.served = self.prefilled = self.preemptions = 0
        self.place = NOWHERE
        self.since = self.left_at = self.arrival
        self.goals = {}  # "served" and "tokens" alarms: the amount at which they ring
        self.waited = None
        self.joined_at = 0
        self.owes_token = False  # this visit has not yielded one yet
        self.finish = self.calls = ""
        self.now = lambda: 0
        self.held_back = self.overruled = False
        self.held_before = self.held_since = 0
        # for the record
        self.queued = self.first_token = self.last_token = self.end = None
        self.preempted = self.stalled = self.gap = self.computed = self.blocks_out = self.blocks_in = 0
        self.turns = 0  # iterations that might have yielded it a token

    @property
    def held(self):
        return self.held_before + (self.now() - self.held_since if self.held_back else 0)

    @property
    def last_served(self):
        return self.now() if self.running else self.left_at

    @property
    def decoding(self):
        return self.complete

    @property
    def cached(self):
        if self.running or self.place not in (NOWHERE, HOST):
            return self.prompt + self.generated - 1 if self.complete else self.prefilled
        return self.spec.found(self) * self.spec.unit


class SpecCopy:
    def __init__(self, job, blocks, out):
        self.job, self.blocks, self.out, self.end, self.orphan = job, blocks, out, None, False


class SpecLeft:
    """What a job has computed while it is copied to the host: it holds these units until then."""

    def __init__(self, job, ids, unit):
        self.id, self.arrival, self.program, self.ids, self.shared = job.id, job.arrival, job.program, ids, len(ids)
        self.running, self.place, self.prompt, self.generated = False, LEAVING, len(ids) * unit + 1, 0


def age(job):
    return job.arrival, job.id


class Spec:
    def __init__(self, policy, machine, hardware, *, max_batch, batching, token_budget, device_blocks, host_blocks,
                 residency, visit, kv_reserve, prefetch_quota, evict="policy", whole_context=False, skip_misfits=False,
                 prefill_guard=0.0, charging="iteration", static_timeout=0, macro=None,
                 lookahead=0, prefix_cache="off", prefix_tokens=None, host_prefix_tokens=0, max_resident=None,
                 otherwise=None, late=None, guess=None):  # fmt: skip
        # What a body does that amends plans, and by how much the count of who ends is put right before the commit.
        self.rows, self.otherwise, self.late = max_resident or NEVER, otherwise, late
        self.guess = guess  # (who decodes, their context) -> guesses that they verify
        self.shares, self.unit = prefix_cache == "on", prefix_tokens or 16
        self.tier = host_prefix_tokens // self.unit if self.shares and device_blocks is not None else 0
        self.kept = []  # units on the host that no copy out needs, the next to be forgotten first
        self.lefts = []  # what is copied to the host: each holds the units of its path, here and there
        self.size = self.unit // 16
        self.idle = []  # units on the device that nobody holds, the next to go first
        self.policy, self.machine, self.hardware = policy, machine, hardware
        self.slots, self.shape, self.budget = max_batch, batching, NEVER if token_budget is None else token_budget
        self.device = NEVER if device_blocks is None else device_blocks
        self.swaps = residency in ("reactive", "proactive")
        self.ahead = residency == "proactive" and device_blocks is not None
        self.host = (NEVER if host_blocks is None else host_blocks) if self.swaps else 0
        self.visit = (NEVER if residency == "defer" else visit) if device_blocks is not None else 0
        self.reserve, self.quota, self.evict, self.whole = kv_reserve, prefetch_quota, evict, whole_context
        self.skip, self.floor, self.charging = skip_misfits, round(self.host * prefill_guard), charging
        self.timeout, self.lookahead = static_timeout, lookahead
        self.live, self.copies = [], []  # copies under way, in the order of issue
        self.channel = {True: 0, False: 0}
        self.service = self.ps = self.guarded = 0
        self.patience, self.wakes = 10_000, 0
        self.pins = {}  # by program: ns until which what it let go is kept, and the key
        self.owner, self.above = {}, {}  # of an idle unit: the program that let it go last, and the unit above it
        self.last = {}  # by program: ns, and which of its jobs ended then
        self.begun = []  # (ns, tokens found, tokens asked) of each prefill
        machine.pool_tokens = self.device if self.device >= NEVER else self.device * 16
        machine.host_tokens = self.host if self.host >= NEVER else self.host * 16
        machine.host_prefix_tokens = self.tier * self.unit
        policy._scheduler, policy.machine, policy.jobs = self, machine, self.live

    # -- what a policy asks for

    def rerank(self, job):
        pass

    def wake(self, job, served, tokens, waited):
        if job not in self.live:
            return
        for why, amount, so_far in (("served", served, job.served), ("tokens", tokens, job.generated)):
            if amount is None:
                job.goals.pop(why, None)
            elif amount != KEEP:
                job.goals[why] = so_far + max(1, amount)
        if waited != KEEP:
            job.waited = None if waited is None else max(1, waited)

    def hold(self, job):
        if job in self.live and not job.held_back:
            assert not job.running
            job.held_back, job.held_since = True, self.policy.now

    def release(self, job):
        if job in self.live and job.held_back:
            job.held_before, job.held_back, self.wakes = job.held, False, 0

    def keep(self, program, until, key):
        self.pins[program] = until, until if key is None else key

    def contexts(self, programs):
        found, seen, there = [], [], set()
        for name in [getattr(named, "program", named) or named for named in programs]:
            jobs = [job for job in self.live if name and job.program == name]
            if isinstance(name, SpecJob):
                jobs = [name]
            elif not jobs and name in self.last:
                jobs = self.last[name][1]
            tokens = {job: job.prompt + job.generated for job in jobs if name not in seen}
            seen.append(name)
            if not self.shares:
                found.append(max(tokens.values(), default=0))
                continue
            ids = {job: self.path(job)[: tokens[job] // self.unit] for job in tokens}
            new = set().union(*ids.values()) - there
            there |= new
            found.append(sum(tokens[job] - len(ids[job]) * self.unit for job in tokens) + len(new) * self.unit)
        return found

    def path(self, job):
        answer = self.answers[job.id] if job.finish == "stop" and job.program else ()
        return [*job.ids, *answer]

    def hits(self, window):
        if not self.shares:
            return 0, 0
        lately = [begun for begun in self.begun if begun[0] > self.policy.now - window]
        return sum(found for _, found, _ in lately), sum(asked for _, _, asked in lately)

    def pool_used(self):
        running = [job for job in self.live if job.running]
        return 16 * (self.taken(running) + self.cold(running, []))

    def pool_idle(self):
        return len(self.idle) * self.unit

    # -- what a driver tells beside arrivals and ends

    def correct(self, job, tokens):
        before = self.held(job)
        job.generated += tokens
        if job.running and not job.complete:
            job.prefilled = min(job.prefilled, job.prompt + job.generated - 1)
        if job.complete and job.place in (DEVICE, LEAVING):
            self.take_all(job)
        for copy in self.copies:
            if copy.job is job and not copy.orphan:
                copy.blocks += self.held(job) - before
        self.guarded = 0

    def resize_pool(self, blocks):
        if blocks == self.device:
            return
        self.device = blocks
        self.machine.pool_tokens = blocks * 16
        self.guarded = 0

    # -- arithmetic

    def blocks(self, tokens):
        return -(-tokens // 16)

    def need(self, job):
        tokens = job.limit if self.whole and job.limit < NEVER else job.generated
        return self.blocks(job.prompt + tokens + self.lookahead)

    def held(self, job):
        return self.blocks(job.prompt + job.generated - 1)

    # -- units: what several jobs may share

    def found(self, job):
        """How many of its leading units are there; its newest token is always left to compute."""
        n = 0
        while n < min(len(job.ids), (job.prompt + job.generated - 1) // self.unit):
            if not self.shares or (job.ids[n] not in self.idle and not self.holders(job.ids[n])):
                break
            n += 1
        return n

    def holders(self, id, but=()):
        return [job for job in self.live + self.lefts if id in job.ids[: job.shared] and job not in but]

    def units(self, job):
        """Those that it holds, or would if it joined."""
        n = job.shared if job.running or job.place not in (NOWHERE, HOST) else self.found(job)
        return set(job.ids[:n])

    def union(self, jobs):
        return set().union(*[self.units(job) for job in jobs])

    def taken(self, members):
        """Blocks that these would use together: a unit that several hold counts once."""
        private = sum(self.need(job) - self.size * len(self.units(job)) for job in members)
        return private + self.size * len(self.union(members))

    def take(self, job, upto):
        """It holds its first `upto` units."""
        if self.shares:
            for id in job.ids[job.shared : upto]:
                if id in self.idle:
                    self.idle.remove(id)
            job.shared = max(job.shared, upto)

    def take_all(self, job):
        """All its KV is there."""
        self.take(job, min(len(job.ids), (job.prompt + job.generated - 1) // self.unit))

    def let_go(self, job, answer=()):
        """It holds nothing. answer: units that it has filled beyond those of its prompt."""
        ids = [*job.ids[: job.shared], *answer] if self.shares else ()
        job.shared = 0
        for at, id in reversed(list(enumerate(ids))):
            if not self.holders(id):
                if id in self.idle:
                    self.idle.remove(id)
                self.idle.append(id)
                self.owner[id] = job.program
                self.above[id] = ids[at - 1] if at else None

    def in_order(self, idle, owner):
        """Idle units as they go: what is kept last, by its key; what is above what is kept is kept as well."""
        rank = {}
        for id in idle:
            until, key = self.pins.get(owner[id], (0, 0)) if owner[id] else (0, 0)
            rank[id] = (1, key) if until > self.policy.now else (0, 0)
        for id in idle:
            up = self.above[id]
            while up in rank:
                rank[up] = max(rank[up], rank[id])
                up = self.above[up]
        return sorted(idle, key=rank.get)

    # -- units on the host

    def hosts(self, id):
        return id in self.kept or any(id in left.ids for left in self.lefts)

    def loaded(self, job):
        """How many of its leading units are there once those have been loaded that the host has beyond the device's."""
        here = n = self.found(job)
        while n < min(len(job.ids), (job.prompt + job.generated - 1) // self.unit) and self.tier:
            if not self.hosts(job.ids[n]):
                break
            n += 1
        computing = self.machine.prefill_ns(n * self.unit) - self.machine.prefill_ns(max(1, here * self.unit))
        return n if job.place is NOWHERE and self.machine.load_ns((n - here) * self.unit) < computing else here

    def write(self, job, path):
        """The job has computed these units, or ends: what the host lacks of them is to be copied there, the first ones
        if it has no room for all. It forgets others for them, the oldest first.
        """
        if not self.tier:
            return
        n = 0
        while n < len(path) and self.hosts(path[n]):
            n += 1
        self.kept = [id for id in self.kept if id not in path[:n]]
        room = self.tier - len({*path[:n], *self.kept}.union(*[left.ids for left in self.lefts]))
        while self.kept and room < len(path) - n:
            self.kept.pop(0)
            room += 1
        new = min(room, len(path) - n)
        if new > 0:
            left = SpecLeft(job, path[: n + new], self.unit)
            self.lefts.append(left)
            self.idle = [id for id in self.idle if id not in left.ids]
            self.copies.append(SpecCopy(left, new * self.size, True))
        else:
            self.age_out(path[:n])

    def age_out(self, path):
        """Nothing that is under way needs these any more: on the host, they are the youngest now."""
        for id in reversed(path):
            if not any(id in left.ids for left in self.lefts):
                self.kept.append(id)

    def landed(self, left):
        """It has been copied."""
        self.lefts.remove(left)
        self.let_go(left)
        self.age_out(left.ids)

    def settle(self):
        """Idle units go where the jobs have taken the room."""
        if not self.idle:
            return
        members = [job for job in self.live if job.running]
        room = max(0, self.device - self.taken(members) - self.cold(members, []))
        for id in self.in_order(self.idle, self.owner)[: max(0, -(-(len(self.idle) * self.size - room) // self.size))]:
            self.idle.remove(id)

    # -- the host

    def hosted(self):
        held = sum(self.held(job) for job in self.live if not job.running and job.place in (HOST, LEAVING, COMING))
        return held + sum(copy.blocks for copy in self.copies if copy.orphan and copy.out)

    # -- who runs

    def choose(self, now):
        rank = {job: self.policy.rank(job) for job in self.live}
        best_first = sorted(self.live, key=lambda job: (rank[job], not job.running, *age(job)))
        pinned = [job for job in best_first if job.running and job.owes_token]
        running = pinned + [job for job in best_first if job.running and not job.owes_token]
        waiting = [job for job in best_first if not job.running and not job.held_back]
        if type(self.policy).waiting is not Policy.waiting:
            waiting = list(self.policy.waiting())
        waiting = waiting or self.overruled()

        def staying(joined):
            stay = []
            for job in running:
                if len(joined + stay) == self.slots or self.taken(joined + stay + [job]) > self.device:
                    break
                stay.append(job)
            return stay

        joined, hold = [], 0
        held_still = self.guarded > self.service
        if held_still:
            hold = self.guarded if len(staying([])) == len(running) else 0
        if self.shape == "static":
            oldest = min([age(job) for job in waiting], default=(0, 0))[0]
            if running or not waiting or not (len(waiting) >= self.slots or now >= oldest + self.timeout):
                held_still = True
        for job in [] if held_still else waiting:
            someone = running or joined
            if self.floor and job.place is NOWHERE and someone and self.host - self.hosted() < self.floor:
                continue
            left = [other for other in running if other not in staying(joined)]
            if left and not rank[job] < min(rank[other] for other in left):
                break
            ahead = joined + [other for other in running if other in pinned or not rank[job] < rank[other]]
            if len(ahead) >= self.slots:
                break
            if self.taken([*ahead, job]) > self.device:
                if self.skip or self.need(job) > self.device:
                    continue
                break
            stay = staying([*joined, job])
            displaced = [other for other in running if other not in stay and other not in left]
            members = [*joined, job, *stay]
            cold = self.cold(members, [other for other in running if other not in stay])
            short = self.taken(members) + cold > self.device
            guard = max([other.joined_at + self.visit * self.return_ns(other) for other in displaced], default=0)
            if short and self.visit and guard > self.service:
                hold = guard
                break
            joined.append(job)
        stay = staying(joined)
        left = [job for job in running if job not in stay]
        prefill = [job for job in best_first if job in joined + stay and not job.complete]
        return joined, stay, left, prefill, hold

    def overruled(self):
        """Whom nobody would ever wake, though nothing runs: the oldest."""
        if not self.live or any(job.running or not job.held_back for job in self.live):
            return []
        if any(job.waited for job in self.live) and self.wakes < self.patience:
            return []
        return [min(self.live, key=age)]

    def tick(self):
        """Nothing runs, and time has passed."""
        now = self.policy.now
        late = [job for job in self.live if job.held_back and job.waited and now - job.since >= job.waited]
        self.wakes += bool(late)
        self.ring_waited(sorted(late, key=age), now)

    def opens_at(self):
        """When to tick, or a batch starts though it is not full."""
        times = [job.since + job.waited for job in self.live if job.held_back and job.waited]
        offered = [job for job in self.live if not job.held_back] or self.overruled()
        if self.shape == "static" and offered:
            opens = min(age(job) for job in offered)[0] + self.timeout
            if opens > self.policy.now:  # else it is open, and nobody fits
                times.append(opens)
        return times

    def return_ns(self, job):
        """What coming back would cost a running job that is displaced now."""
        if self.swaps and self.held(job) <= self.host - self.hosted():
            return self.machine.return_ns(self.held(job))
        return self.machine.prefill_ns(job.prompt + job.generated)

    def cold(self, members, left, gone=()):
        """Blocks that neither the members use nor are free or idle, once the KV of `gone` is gone."""
        parked = [job for job in self.live if not job.running and job.place in (DEVICE, LEAVING, COMING)] + left
        parked = [job for job in parked + self.lefts if job not in members and job not in gone]
        orphans = sum(copy.blocks for copy in self.copies if copy.orphan and not copy.out)
        private = sum(self.held(job) - self.size * len(self.units(job)) for job in parked)
        return private + orphans + self.size * len(self.union(parked) - self.union(members))

    # -- where KV lives

    def coldest(self, parked):
        if self.evict == "lru":
            return sorted(parked, key=lambda job: (job.last_served, *age(job)))
        if self.evict == "reverse":
            return sorted(parked, key=lambda job: (self.policy.rank(job), not job.running, *age(job)), reverse=True)
        return list(self.policy.coldest(list(parked)))

    def make_room(self, joined, stay, left):
        members = joined + stay
        missing = lambda job: self.held(job) - self.size * len(self.units(job))  # noqa: E731
        load = [SpecCopy(job, missing(job), False) for job in joined if job.place is HOST]
        load += [copy for copy in self.copies if not copy.orphan and not copy.out and copy.job in joined]
        for job in joined:
            if job.place is NOWHERE and self.loaded(job) > self.found(job):
                load.append(SpecCopy(job, (self.loaded(job) - self.found(job)) * self.size, False))
        park, clear, drop, prefetch = [], [], [], []
        if self.device >= NEVER and self.rows >= NEVER:
            return load, park, clear, drop, prefetch, []
        gone, spared = [], 0  # whose KV goes; blocks of prefetches for nobody that give way
        for job in reversed(left):
            if not job.complete:  # in the middle of its prefill
                gone.append(job)
                drop.append(job)

        def free():
            return self.device - self.taken(members) - self.cold(members, left, gone) + spared

        def alone(job):
            return self.cold(members, left, gone) - self.cold(members, left, [*gone, job])

        host = self.host - self.hosted()
        leaving = [copy for copy in self.copies if copy.out and not copy.orphan and copy.job not in joined]
        parked = [job for job in self.live if not job.running and job.place is DEVICE and job not in joined]
        parked += [job for job in left if job.complete]
        for copy in list(leaving):
            if free() < 0 and (copy.job not in self.lefts or alone(copy.job)):
                clear.append(copy)
                gone.append(copy.job)
                leaving.remove(copy)
        for job in self.coldest(parked) if free() < 0 else []:
            if free() < 0:
                gone.append(job)
                if self.swaps and self.held(job) <= host:
                    host -= self.held(job)
                    park.append(SpecCopy(job, self.held(job), True))
                    clear.append(park[-1])
                else:
                    drop.append(job)
                parked.remove(job)
        for copy in self.copies:
            if free() < 0 and not copy.out and copy not in load:
                clear.append(copy)
                if copy.orphan:
                    spared += copy.blocks
                else:
                    gone.append(copy.job)
        for copy in list(leaving):
            if free() < 0 and copy.job in self.lefts:
                clear.append(copy)
                gone.append(copy.job)
                leaving.remove(copy)
        for job in self.coldest(parked) if len(members + parked) > self.rows else []:
            if len(members + parked) > self.rows:
                gone.append(job)
                drop.append(job)
                parked.remove(job)
        room = free()
        assert room >= 0
        soon = room + sum(alone(copy.job) for copy in leaving)
        fetched, taken = set(), 0
        if self.ahead and soon < self.reserve:
            for job in self.coldest(parked):
                if soon < self.reserve and self.held(job) <= host:
                    host -= self.held(job)
                    soon += alone(job)
                    park.append(SpecCopy(job, self.held(job), True))
        elif self.ahead and not park:
            rank = {job: self.policy.rank(job) for job in self.live}
            queue = [job for job in self.live if not job.running and not job.held_back]
            queue.sort(key=lambda job: (rank[job], *age(job)))
            if type(self.policy).waiting is not Policy.waiting:
                queue = list(self.policy.waiting())
            spare = room - self.reserve
            there = [
                job for job in self.live + self.lefts if job not in gone and job.place not in (HOST, NOWHERE)
            ] + joined
            for job in [job for job in queue if job not in joined][: self.quota]:
                if spare <= taken:
                    break
                if job.place is HOST:
                    cost = self.held(job) - self.size * len(self.units(job) & (self.union(there) | fetched))
                    if cost > spare - taken:
                        break
                    taken += cost
                    fetched |= self.units(job)
                    prefetch.append(SpecCopy(job, missing(job), False))
        return load, park, clear, drop, prefetch, self.evicted(joined, drop, clear, fetched, room - taken)

    def evicted(self, joined, drop, clear, fetched, room):
        """The idle units that go before the step: what is idle already, then what becomes so, unless it is found."""
        kept = self.union(joined) | fetched
        idle = [id for id in self.idle if id not in kept]
        owner = dict(self.owner)
        order = drop + [copy.job for copy in clear if not copy.out and not copy.orphan]
        order += [copy.job for copy in clear if copy.out]
        for i, job in enumerate(order):
            last = [id for id in job.ids[: job.shared] if not self.holders(id, but=order[: i + 1])]
            idle += [id for id in reversed(last) if id not in kept]
            owner |= dict.fromkeys(last, job.program)
            self.above |= dict(zip(job.ids[: job.shared], [None, *job.ids], strict=False))
        return self.in_order(idle, owner)[: max(0, -(-(len(idle) * self.size - room) // self.size))]

    def send(self, copy, at):
        copy.end = max(at, self.channel[copy.out]) + self.hardware.link.copy_ns(
            copy.blocks * self.hardware.memory.block_bytes, copy.out
        )
        self.channel[copy.out] = copy.end
        if not self.hardware.link.duplex:
            self.channel[not copy.out] = copy.end

    # -- one iteration

    def chunks(self, prefill, decodes):
        owed = lambda job: job.prompt + job.generated - job.prefilled  # noqa: E731
        if self.shape == "chunked":
            left, chunks = self.budget - decodes, []
            for job in prefill:
                if left > 0:
                    chunks.append((job, min(left, owed(job))))
                    left -= chunks[-1][1]
            return chunks
        left, chunks = self.budget - (0 if self.shape == "prefill-first" else decodes), []
        for job in prefill:
            if chunks and owed(job) > left:
                break
            chunks.append((job, owed(job)))
            left -= owed(job)
        return chunks

    def iterate(self, speak):
        """Returns False if there is nothing to run now."""
        policy, now = self.policy, self.ps // 1000
        policy.now = now
        joined, stay, left, prefill, hold = self.choose(now)
        members = joined + stay
        load, park, clear, drop, prefetch, evict = self.make_room(joined, stay, left)
        coming = [job for job in [*joined, *[copy.job for copy in prefetch]] if job.place in (NOWHERE, HOST)]
        found = {job: self.loaded(job) for job in coming}
        for job in joined:
            if job.place is NOWHERE:
                job.prefilled = found[job] * self.unit
        decode = [job for job in members if job.complete]
        chunks = self.chunks(prefill, len(decode))
        if self.shape == "prefill-first" and chunks:
            decode = []
        if not chunks and not decode and not left:
            return False
        amended = self.otherwise and self.otherwise(now, joined, left, chunks, self.live)
        if amended:
            # The body has done other than asked. Whose KV it lost has no place; who joins with lost KV has not joined.
            given, absent, lost, begins = amended
            away = [job for job in joined if job in absent or job in lost]
            for job in away:
                if job.place is NOWHERE:
                    job.prefilled = 0
            for job, tokens in begins.items():
                job.prefilled = tokens
            chunks = [(job, min(n, job.prompt + job.generated - job.prefilled)) for job, n in chunks]
            chunks = [(job, n) for job, n in chunks if job not in away and job not in lost]
            chunks = chunks if given is None else given
            joined = [job for job in joined if job not in away]
            left = left + [job for job in lost if job.running and job not in left]
            members = [job for job in members if job not in away and job not in lost]
            decode = [job for job in decode if job in members]
            load = [copy for copy in load if copy.job not in away]
            clear = [copy for copy in clear if copy not in park or copy.job not in lost]
            park = [copy for copy in park if copy.job not in lost]
            drop = drop + [job for job in lost if job.place is DEVICE and job not in drop]
        for job in joined:
            if job.found is None:
                job.found = job.prefilled
                job.from_host = (found[job] - self.found(job)) * self.unit if job.place is NOWHERE else 0
            if job.place is NOWHERE:
                self.begun.append((now, job.prefilled, job.prompt + job.generated))
                found[job] = min(len(job.ids), job.prefilled // self.unit)
        # the copies
        store = [copy for copy in self.copies if copy.end is None]
        for copy in store + park:
            self.send(copy, now)
        ready = max([now] + [copy.end for copy in clear])
        start = ready
        for copy in load:
            if copy.end is None:
                self.send(copy, ready)
            start = max(start, copy.end)
        for copy in prefetch:
            self.send(copy, ready)
        stall = start - now
        context = sum(job.prompt + job.generated for job in decode)
        duration = self.hardware.latency.iteration_ps(len(decode), context, [(job.prefilled, n) for job, n in chunks])
        guesses = self.guess(decode, context) if self.guess and decode else 0
        if guesses:  # that the jobs verify, all together
            duration = self.hardware.latency.verify_ps(
                len(decode), context, guesses, [(job.prefilled, n) for job, n in chunks]
            )
        if not decode and not chunks:
            duration = 10**9  # nothing has run
        first = stall - (-duration // 1000)
        self.ps += stall * 1000 + duration
        after = self.ps // 1000
        service = after - now - stall
        # commit
        policy.now = after
        for job in left:
            job.running = False
            job.preemptions += 1
            job.since = job.left_at = now
            job.place = DEVICE
        for job in drop:
            self.let_go(job)
            job.place, job.complete, job.prefilled = NOWHERE, False, 0
        for copy in park + prefetch:
            copy.job.place = LEAVING if copy.out else COMING
            if copy.out:
                copy.job.blocks_out += copy.blocks
            else:
                copy.job.blocks_in += copy.blocks
                self.take(copy.job, found[copy.job])
            self.copies.append(copy)
        for job in joined:
            if job.held_back:
                job.overruled, job.held_before, job.held_back = True, job.held_before + now - job.held_since, False
                self.wakes = 0
            if job.queued is None:
                job.queued = now - job.arrival
            else:
                job.preempted += now - job.left_at
            for copy in [copy for copy in self.copies if copy.job is job and not copy.orphan]:
                if copy.out:
                    copy.orphan = True
                else:
                    self.copies.remove(copy)
            if job.place in (HOST, NOWHERE):
                job.blocks_in += sum(copy.blocks for copy in load if copy.job is job)
            if job in found:
                self.take(job, found[job])
            job.running, job.owes_token, job.place = True, True, DEVICE
            job.joined_at = self.service
        ending = [job for job, n in chunks if job.prefilled + n == job.prompt + job.generated]
        said = {job: speak(job.id, job.turns, job.generated) for job in decode + ending}
        for job in [job for job in decode if self.late and said[job][1]]:
            self.correct(job, self.late(job, job.generated, said[job][0]))
        fresh = any(job.owes_token and job not in joined and said[job][0] for job in decode)
        moves = load or park or clear or drop or prefetch or store or amended
        self.guarded = hold if policy.settled and not (fresh or moves or left) else 0
        for copy in clear:
            if not copy.out and not copy.orphan:
                copy.job.place = HOST
                self.copies.remove(copy)
                self.let_go(copy.job)
        for copy in [copy for copy in clear if copy.out]:
            self.copies.remove(copy)
            if copy.job in self.lefts:
                self.landed(copy.job)
            else:
                copy.job.place = HOST
                self.let_go(copy.job)
        for id in evict:
            self.idle.remove(id)
        for job in joined:
            if job.complete:
                self.take_all(job)
        landed = [copy for copy in [*self.copies, *load, *clear] if copy.end <= after]
        if landed:
            self.guarded = 0
        for copy in [copy for copy in self.copies if copy.end <= after]:
            self.copies.remove(copy)
            if copy.job in self.lefts:
                self.landed(copy.job)
            elif not copy.orphan:
                copy.job.place = HOST if copy.out else DEVICE
                (self.let_go if copy.out else self.take_all)(copy.job)
        tokens = len(decode) + sum(n for _, n in chunks) or NEVER
        for job in members:
            job.stalled += stall
            if self.charging == "iteration":
                job.served += service
            else:
                job.served += service // tokens * (dict(chunks).get(job, 0) + (job in decode))
        self.service += service if self.charging == "iteration" else service // tokens * bool(decode)
        for job, n in chunks:
            job.prefilled += n
            job.computed += n
            self.take(job, min(len(job.ids), job.prefilled // self.unit))
            if job in ending:
                self.guarded = 0
                job.complete = True
                self.write(job, job.ids[: job.shared])
        for job, (n, _) in said.items():
            job.turns += 1
            job.generated += n
            if n:
                job.owes_token = False
                if job.first_token is None:
                    job.first_token = after
                else:
                    at = after if job in ending else now + first
                    job.gap = max(job.gap, at - job.last_token)
                job.last_token = after
        ended = [job for job in said if said[job][1]]
        self.ring(after)
        for job in sorted(ended, key=age):
            self.remove(job, after, "stop", self.answers[job.id])
        for job in sorted(self.live, key=age):
            if job.running and job.complete and self.need(job) > self.device:
                self.remove(job, after, "truncated")
        self.settle()
        return True

    def ring(self, now):
        def due(job, why):
            return job.goals.get(why, NEVER) <= (job.served if why == "served" else job.generated)

        def late(job):
            return not job.running and job.waited and now - job.since >= job.waited

        jobs = sorted(self.live, key=age)
        for job, why in [(job, why) for job in jobs for why in ("served", "tokens") if due(job, why)]:
            if due(job, why):
                del job.goals[why]
                self.guarded = 0
                self.policy.alarm(job, why)
        self.ring_waited([job for job in jobs if late(job)], now)

    def ring_waited(self, jobs, now):
        for job in jobs:
            if not job.running and job.waited and now - job.since >= job.waited:
                job.since = now
                self.guarded = 0
                self.policy.alarm(job, "waited")

    def remove(self, job, now, finish, answer=()):
        self.live.remove(job)
        filled = (job.prompt + job.generated - 1) // self.unit
        answer = answer[: max(0, filled - job.shared)] if job.shared == len(job.ids) else ()
        self.write(job, [*job.ids[: job.shared], *answer])
        self.let_go(job, answer)
        for copy in self.copies:
            if copy.job is job:
                copy.orphan = True
        if not job.running:
            if job.queued is None:
                job.queued = now - job.arrival
            else:
                job.preempted += now - job.left_at
        job.running, job.place, job.end, job.finish = False, NOWHERE, now, finish
        if job.held_back:
            job.held_before, job.held_back = job.held, False
        if job.program:
            at, ended = self.last.get(job.program, (now, []))
            self.last[job.program] = now, [*(ended if at == now else []), job]
        job.calls = self.calls[job.id] if finish == "stop" else ""
        self.guarded = 0
        self.policy.depart(job)
        self.gone(job.id, now)

    def end_program(self, program):
        self.guarded = 0
        self.policy.ended(program)
        self.last.pop(program, None)
        self.pins.pop(program, None)


def simulate(spec, jobs, outputs, cancels, speak=None, answers=None, calls=None, loop=None, trouble=None):
    """The driver loop of the specification. Returns its jobs.

    outputs: true tokens by job id. speak: (id, iterations that might have yielded a token before, tokens so far) ->
    (tokens, whether it has ended), of an uneven body; an even one yields one token at a time. answers: by job id, the
    units that prompt and answer fill beyond those of the prompt. calls: by job id, the tool that its answer calls.
    loop: says who comes, who goes and which program is over as others end; else jobs and cancels are all there is.
    trouble: when the driver counts again or resizes the pool: at, and tell(now, live jobs by id, spec).
    """
    speak = speak or (lambda id, turn, tokens: (1, tokens + 1 == outputs[id]))
    loop = loop or OpenLoop(jobs, cancels)
    specs = {}
    spec.answers = answers or [()] * len(jobs)
    spec.calls = calls or [""] * len(jobs)
    spec.gone = loop.ended
    while loop.at < NEVER or spec.live or (trouble and trouble.at < NEVER):
        now = spec.ps // 1000
        spec.policy.now = now
        if trouble and trouble.at <= now:
            trouble.tell(now, {id: job for id, job in specs.items() if job in spec.live}, spec)
        for at, id in loop.arrived(now):
            job = specs[id] = SpecJob(loop.job(id, at))
            job.spec = spec
            job.now = lambda: spec.policy.now
            if spec.need(job) > spec.device:
                job.finish = "rejected"
                loop.ended(id, now)
                continue
            spec.live.append(job)
            spec.guarded = 0
            spec.policy.arrive(job)
        for job in sorted((specs[id] for id in loop.left(now)), key=age):
            if job in spec.live:
                spec.remove(job, now, "cancelled")
                spec.settle()
        for program in loop.over(now):
            spec.end_program(program)
        if not (spec.live and spec.iterate(speak)):
            times = [loop.at, *spec.opens_at(), trouble.at if trouble else NEVER]
            if min(times) < NEVER:
                spec.ps = max(spec.ps, min(times) * 1000)
                spec.policy.now = spec.ps // 1000
                spec.tick()
            else:
                assert not spec.live, "jobs wait and nothing will happen"
    return [specs[id] for id in sorted(specs)]


class OpenLoop:
    """Who comes and who goes at what time is known."""

    def __init__(self, jobs, cancels):
        self.jobs = {job.id: job for job in jobs}
        self.coming = sorted((job.arrival, job.id) for job in jobs)
        self.leaving = sorted(cancels)

    @property
    def at(self):
        return min([at for at, _ in self.coming[:1] + self.leaving[:1]], default=NEVER)

    def job(self, id, at):
        return self.jobs[id]

    def arrived(self, now):
        due = [(at, id) for at, id in self.coming if at <= now]
        self.coming = self.coming[len(due) :]
        return due

    def left(self, now):
        due = [id for at, id in self.leaving if at <= now]
        self.leaving = self.leaving[len(due) :]
        return due

    def over(self, now):
        return []

    def ended(self, id, now):
        pass
