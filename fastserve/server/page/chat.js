// The conversation: each question is a /chat request whose answer streams in, and a job that the board outlines.

import { byId, say } from "./shared/dom.js";
import { count, duration } from "./shared/format.js";
import { Talk } from "./shared/talk.js";
import { call, events } from "./shared/wire.js";

const CLIENT = "you";
const SLACK = 0.2; // s by which this page's idea of the engine's clock may be ahead

export class Chat extends Talk {
  constructor(world) {
    super();
    this.world = world;
    this.names = new Set(); // jobs of this conversation
    this.now = null; // {name, meta, since} of the answer that streams
  }

  mine(job) {
    return job.name !== null && this.names.has(job.name);
  }

  async listen(question, write, meta) {
    const body = { messages: this.turns, max_new_tokens: Number(byId("most").value), stream: true, user: CLIENT };
    const response = await call("chat", { body, signal: this.stop.signal });
    for await (const event of events(response)) {
      this.claim(event.job_id);
      if (event.is_final) {
        this.now = null; // the feed may still speak of the job
        say(meta, summary(event));
      }
      if (event.error) meta.classList.add("wrong");
      write(event.text);
    }
  }

  /** The answer that streams is this job's. */
  claim(name) {
    if (this.now.name === name) return;
    this.names.delete(this.now.name);
    this.names.add(name);
    this.now.name = name;
  }

  /** Until its first token says which job it is: the only one that can be. */
  guess() {
    const fits = (job) => job.client === CLIENT && job.name && !this.names.has(job.name) && job.arrival >= this.now.since;
    const found = [...this.world.jobs.values()].filter(fits);
    if (found.length === 1) this.claim(found[0].name);
  }

  /** While its answer streams, what the scheduler does with it. */
  follow() {
    if (this.now && !this.now.name) this.guess();
    const job = this.now?.name && this.world.byName(this.now.name);
    if (!job) return;
    const level = job.level === null ? "" : ` in Q${job.level + 1}`;
    const state = job.held ? "held back" : job.state;
    say(this.now.meta, `job ${job.id}, ${state}${level}, ${count(job.output)} tokens`);
  }

  busy(on, meta = null) {
    this.now = on ? { name: null, meta, since: this.world.now() - SLACK } : null;
    super.busy(on);
  }

  restart() {
    this.names.clear();
    super.restart();
  }
}

function summary(event) {
  if (event.error) return event.error;
  const facts = [`${count(event.tokens_generated)} tokens in ${duration(event.generation_time)}`];
  facts.push(`first after ${duration(event.time_to_first_token)}`, `${event.tokens_per_second.toFixed(1)} a second`);
  if (event.cached_tokens) facts.push(`${count(event.cached_tokens)} found in the cache`);
  if (event.held_s >= 0.001) facts.push(`held back for ${duration(event.held_s)}`);
  if (event.preemption_count) facts.push(`preempted ${event.preemption_count}×`);
  if (event.finish_reason === "length") facts.push("cut at the limit");
  if (event.finish_reason === "truncated") facts.push("truncated: it outgrew the KV pool");
  return facts.join(" · ");
}
