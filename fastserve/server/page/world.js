// What the page knows of the scheduler: /live told as jobs, spans of slots, and who has ended. Draws nothing.

const WINDOW = 30; // s of spans that are kept
const ENDED = 40; // ended jobs that are kept
const LEVEL = /^Q(\d+)\b/;

/** From what a policy says of a job: its queue level from 0, or null where it has no levels. */
export function levelOf(text) {
  const found = LEVEL.exec(text ?? "");
  return found ? Number(found[1]) - 1 : null;
}

/** One request. state: queued, running, preempted, held or ended; entered: its turn in its level; slot while it runs. */
class Job {
  constructor(id, at) {
    Object.assign(this, { id, name: null, client: "", prompt: 0, prefilled: 0, output: 0, preemptions: 0 });
    Object.assign(this, { state: "queued", level: null, explained: "", slot: null, place: "", arrival: at });
    Object.assign(this, { entered: 0, took: null, reason: "", held: false, cached: 0 });
  }
}

export class World {
  constructor() {
    this.jobs = new Map(); // live ones by the engine's number
    this.ended = []; // newest first
    this.onEnd = new Set(); // called with each job that has ended
    this.spans = []; // {slot, id, level, from, to, preempted}; to is null while it lasts
    this.open = new Map(); // slot -> its span that lasts
    this.about = null; // model, settings, knobs and what the policy derives from them
    this.stats = null;
    this.contexts = []; // those on the device, and those of who waits
    this.prefix = {}; // tokens asked, found, evicted and computed again since somebody has looked
    this.news = null; // {kind, text} of the last demotion, promotion or preemption
    this.turn = 0;
    this.since = 0; // s of the engine's clock: what an older event tells is in the snapshot already
    this.lag = null; // engine's clock minus this page's, s
  }

  get levels() {
    return this.stats?.levels ?? [];
  }

  /** s of the engine's clock, now. */
  now() {
    return this.lag === null ? 0 : performance.now() / 1000 + this.lag;
  }

  byName(name) {
    for (const job of this.jobs.values()) if (job.name === name) return job;
    return null;
  }

  apply(message) {
    this.stats = message.stats;
    this.keepTime(message.stats.at);
    if (message.type === "snapshot") this.begin(message);
    else for (const event of message.events) if (event.at >= this.since) this.happened(event);
    for (const view of message.jobs) this.see(view);
    this.contexts = message.contexts;
    this.prefix = message.prefix;
    this.forget();
  }

  begin(message) {
    const { model, settings, knobs, derived, stats } = message;
    this.about = { model, settings, knobs, derived };
    this.since = stats.at;
    this.jobs.clear();
    for (const slot of [...this.open.keys()]) this.close(slot, stats.at);
    if (this.spans.some((span) => span.from > stats.at)) this.spans = []; // another server's clock
    for (const view of message.jobs) {
      const job = this.job(view.id, view.arrival);
      job.state = view.state;
      this.setLevel(job, view.level);
      if (view.slot !== null) this.seat(job, view.slot, stats.at);
    }
  }

  job(id, at) {
    let job = this.jobs.get(id);
    if (!job) this.jobs.set(id, (job = new Job(id, at)));
    return job;
  }

  happened(event) {
    if (event.type === "end") return this.end(event);
    const job = this.job(event.id, event.at);
    switch (event.type) {
      case "arrive":
        Object.assign(job, { client: event.client, prompt: event.prompt_tokens, name: event.job_id, arrival: event.at });
        this.setLevel(job, event.level);
        break;
      case "hold":
        job.held = true;
        job.explained = event.level;
        this.news = { kind: "held", text: `job ${job.id} held back` };
        break;
      case "release":
        job.held = false;
        break;
      case "join":
        job.state = "running";
        job.held = false;
        job.cached = Math.max(job.cached, event.found);
        this.setLevel(job, event.level);
        this.seat(job, event.slot, event.at);
        break;
      case "leave":
        if (job.slot === null) break;
        this.close(job.slot, event.at, true);
        Object.assign(job, { state: "preempted", slot: null, preemptions: job.preemptions + 1 });
        this.setLevel(job, event.level);
        this.news = { kind: "preempted", text: `job ${job.id} preempted after ${job.output} tokens` };
        break;
      case "level":
        this.setLevel(job, event.level);
        if (event.direction !== "changed") {
          this.news = { kind: event.direction, text: `job ${job.id} ${event.direction}, ${event.was} → ${event.level}` };
        }
        if (job.slot !== null && this.open.get(job.slot)?.level !== job.level) this.seat(job, job.slot, event.at);
        break;
      case "copy":
        job.place = event.direction === "out" ? "host" : "device";
        break;
      case "drop":
        job.place = "nowhere";
    }
  }

  setLevel(job, text) {
    const level = levelOf(text);
    if (level !== job.level || !job.entered) job.entered = ++this.turn;
    job.level = level;
    job.explained = text;
  }

  seat(job, slot, at) {
    this.close(slot, at);
    job.slot = slot;
    const span = { slot, id: job.id, level: job.level, from: at, to: null, preempted: false };
    this.open.set(slot, span);
    this.spans.push(span);
  }

  close(slot, at, preempted = false) {
    const span = this.open.get(slot);
    if (!span) return;
    span.to = at;
    span.preempted = preempted;
    this.open.delete(slot);
  }

  end(event) {
    const job = this.jobs.get(event.id);
    if (!job) return;
    if (job.slot !== null) this.close(job.slot, event.at);
    this.jobs.delete(job.id);
    Object.assign(job, { state: "ended", slot: null, output: event.output_tokens, reason: event.reason });
    job.took = event.at - job.arrival;
    this.ended.unshift(job);
    this.ended.length = Math.min(this.ended.length, ENDED);
    for (const told of this.onEnd) told(job);
  }

  /** A view is newer than the events that came with it: it adds figures, and moves nobody. */
  see(view) {
    const job = this.jobs.get(view.id);
    if (!job) return;
    job.name = view.job_id ?? job.name;
    job.client = view.client;
    job.prompt = view.prompt_tokens;
    job.prefilled = view.prefilled_tokens;
    job.output = view.output_tokens;
    job.preemptions = Math.max(job.preemptions, view.preemptions);
    job.explained = view.level;
    job.held = view.held_back;
    job.cached = view.cached_tokens;
    job.place = view.place;
  }

  /** The engine's clock runs on between messages, and one that came late must not set it back. */
  keepTime(at) {
    const lag = at - performance.now() / 1000;
    this.lag = this.lag === null || Math.abs(lag - this.lag) > 0.5 ? lag : Math.max(this.lag, lag);
  }

  forget() {
    const before = this.now() - WINDOW - 1;
    if (this.spans.length && this.spans[0].to !== null && this.spans[0].to < before) {
      this.spans = this.spans.filter((span) => span.to === null || span.to >= before);
    }
  }
}
