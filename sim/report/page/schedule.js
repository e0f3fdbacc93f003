// What the observer saw of one run (fastserve/observers/schedule.py), as visits, lives and the backlog. Draws nothing.
// Times are seconds of the run.

import { HUES, hue } from "./palette.js";

/** The schedule that page/shell.py has packed: zlib in base64. */
export async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(plain).json();
}

/** The colour of a queue level as the rows have it: from 1, and -1 where the policy has none. */
export const levelHue = (level) => hue(level < 0 ? null : level - 1);

/** The colour of a job by its number: the first seven by turns. */
export const jobHue = (job) => (job % 7) + 1;

/** One request under one policy. visits: its stays in the batch; moments: its events. first, end: null so far. */
class Life {
  constructor(id, arrival, prompt, client) {
    Object.assign(this, { id, arrival, prompt, client, first: null, end: null, finish: "", tokens: 0 });
    Object.assign(this, { visits: [], moments: [], preemptions: 0 });
  }

  /** s in the batch until `at`. */
  inBatch(at) {
    return this.visits.reduce((sum, visit) => sum + Math.max(0, Math.min(at, visit.to) - visit.from), 0);
  }
}

export class Schedule {
  /** note: what it is of, where it is not of all. */
  constructor(label, data, note = "") {
    Object.assign(this, { label, note });
    this.slots = data.slots;
    this.texts = data.texts;
    this.cut = data.cut === null ? null : data.cut / 1e6;
    this.lives = new Map();
    this.visits = []; // {job, slot, from, to, ready, preempted, lasts, parts: [{at, level}]}, by their begin
    this.events = [];
    this.levels = false; // the policy has queue levels
    this.deepest = 0;
    // Waiting jobs from each time on: by colour, and all of them.
    this.backlog = { at: [0], counts: [new Int32Array(HUES)], sums: [0], most: 0, fullest: 0 };
    this.unpack(data);
    this.until = this.cut ?? Math.max((data.ended ?? 0) / 1e6, this.events.at(-1)?.at ?? 0);
    this.build();
  }

  unpack({ columns, kinds }) {
    let at = 0;
    for (const [nth, kind] of columns.kind.entries()) {
      at += columns.at[nth];
      const [value, more, level, text] = [columns.value[nth], columns.more[nth], columns.level[nth], columns.text[nth]];
      const event = { kind: kinds[kind], at: at / 1e6, job: columns.job[nth], value, more, level, text };
      if (this.cut === null || event.at <= this.cut) this.events.push(event);
    }
  }

  build() {
    const open = new Map(); // job -> its visit
    const waits = new Map(); // job -> its colour among those that wait
    const counts = new Int32Array(HUES);
    const wait = (job, colour) => {
      const before = waits.get(job);
      if (before === colour) return;
      if (before !== undefined) counts[before - 1] -= 1;
      if (colour === undefined) waits.delete(job);
      else {
        waits.set(job, colour);
        counts[colour - 1] += 1;
      }
    };
    for (const event of this.events) {
      const { kind, at, job, level } = event;
      if (level > 0 && kind !== "copy") {
        this.levels = true;
        this.deepest = Math.max(this.deepest, level);
      }
      if (kind === "arrive" || kind === "refused") {
        const client = kind === "arrive" ? this.texts[event.more] : "";
        this.lives.set(job, new Life(job, at, event.value, client));
      }
      const life = this.lives.get(job);
      if (!life) continue; // it came before anybody looked, or it is nobody's
      life.moments.push(event);
      const visit = open.get(job);
      if (kind === "arrive") wait(job, levelHue(level));
      else if (kind === "refused") [life.end, life.finish] = [at, "refused"];
      else if (kind === "join") {
        const ready = event.more > 0 ? null : at;
        const begun = { job, slot: event.value, from: at, to: null, ready, preempted: false, lasts: false };
        begun.parts = [{ at, level }];
        open.set(job, begun);
        life.visits.push(begun);
        this.visits.push(begun);
        wait(job, undefined);
      } else if (kind === "prefilled") {
        if (visit) visit.ready ??= at;
        life.first ??= at;
        life.tokens = event.value;
      } else if (kind === "level") {
        if (visit) visit.parts.push({ at, level });
        else if (waits.has(job)) wait(job, levelHue(level));
      } else if (kind === "leave") {
        life.preemptions += 1;
        life.tokens = event.value;
        if (visit) Object.assign(visit, { to: at, preempted: true });
        open.delete(job);
        wait(job, levelHue(level));
      } else if (kind === "end") {
        Object.assign(life, { end: at, finish: this.texts[event.text], tokens: event.value });
        if (visit) visit.to = at;
        open.delete(job);
        wait(job, undefined);
      }
      this.keep(at, counts, waits.size);
    }
    for (const visit of open.values()) Object.assign(visit, { to: this.until, lasts: true });
    for (const visit of this.visits) visit.ready ??= visit.to;
    // Not while it is built: of what happens at one time only the end is ever seen.
    const { backlog } = this;
    for (const [nth, sum] of backlog.sums.entries()) {
      if (sum > backlog.most) [backlog.most, backlog.fullest] = [sum, backlog.at[nth]];
    }
    this.longest = this.visits.reduce((most, visit) => Math.max(most, visit.to - visit.from), 0); // s of a visit
  }

  keep(at, counts, waiting) {
    const { backlog } = this;
    if (at > backlog.at.at(-1)) backlog.at.push(at);
    const last = backlog.at.length - 1;
    backlog.counts[last] = Int32Array.from(counts);
    backlog.sums[last] = waiting;
  }

  /** The most jobs that wait at once between two times. */
  mostBetween(from, to) {
    const { at, sums } = this.backlog;
    let most = 0;
    for (let i = Math.max(0, search(at, from) - 1); i < at.length && at[i] <= to; i++) most = Math.max(most, sums[i]);
    return most;
  }

  /** How many jobs of it are shown whole, and how many came. */
  get told() {
    let ended = 0;
    for (const life of this.lives.values()) ended += life.end !== null;
    return { came: this.lives.size, ended };
  }

  /** The visit in this slot at this time, or null. reach: s beside it that count, too. */
  visitAt(slot, at, reach = 0) {
    let best = null;
    const end = search(this.visits, at + reach, (visit) => visit.from);
    for (let i = end - 1, looked = 0; i >= 0 && looked < 20_000; i--, looked++) {
      const visit = this.visits[i];
      if (visit.slot !== slot) continue;
      if (visit.to >= at) return visit;
      if (visit.to >= at - reach) best = visit;
      break;
    }
    return best;
  }
}

/** The first place in `items`, sorted by `of`, whose value is above `at`. */
export function search(items, at, of = (item) => item) {
  let [low, high] = [0, items.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (of(items[middle]) > at) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Who runs and who waits at a time. Going on costs the events between; going back begins anew. */
export class Moment {
  constructor(schedule) {
    this.schedule = schedule;
    this.begin();
  }

  begin() {
    this.next = 0; // the first event that is yet to happen
    this.running = new Map(); // slot -> job
    this.places = new Map(); // job -> slot
    this.waiting = new Map(); // job -> {since, back}: back, it has run before
    this.level = new Map(); // job -> its level
    this.held = new Set();
    this.ended = 0;
    this.preemptions = 0;
  }

  /** The event that happened last, or undefined. */
  get last() {
    return this.schedule.events[this.next - 1];
  }

  /** True where anything has changed. */
  go(at) {
    const { events } = this.schedule;
    const before = this.next;
    if (this.next > 0 && events[this.next - 1].at > at) this.begin();
    while (this.next < events.length && events[this.next].at <= at) this.apply(events[this.next++]);
    return this.next !== before;
  }

  apply({ kind, job, value, level, at }) {
    if (level > 0 && kind !== "copy") this.level.set(job, level);
    if (kind === "arrive") this.waiting.set(job, { since: at, back: false });
    else if (kind === "join") {
      this.waiting.delete(job);
      this.running.set(value, job);
      this.places.set(job, value);
    } else if (kind === "leave" || kind === "end") {
      const slot = this.places.get(job);
      if (this.running.get(slot) === job) this.running.delete(slot);
      this.places.delete(job);
      if (kind === "leave") {
        this.waiting.set(job, { since: at, back: true });
        this.preemptions += 1;
      } else {
        this.waiting.delete(job);
        this.held.delete(job);
        this.level.delete(job);
        this.ended += 1;
      }
    } else if (kind === "hold") this.held.add(job);
    else if (kind === "release") this.held.delete(job);
  }
}
