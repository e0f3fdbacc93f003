// The conversation: each question is a /chat request whose answer streams in, and a job that the board outlines.

import { byId, make, say } from "./dom.js";
import { count, duration } from "./format.js";
import { call, events } from "./wire.js";

const NEAR = 60; // px from the end within which the conversation follows what is written
const CLIENT = "you";
const SLACK = 0.2; // s by which this page's idea of the engine's clock may be ahead

export class Chat {
  constructor(world) {
    this.world = world;
    this.turns = []; // {role, content}, as they are sent
    this.stop = null; // AbortController while an answer streams
    this.names = new Set(); // jobs of this conversation
    this.now = null; // {name, meta, since} of the answer that streams
    this.said = byId("said");
    this.text = byId("text");
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.stop) this.stop.abort();
      else this.ask(this.text.value.trim());
    });
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !this.stop) {
        event.preventDefault();
        byId("ask").requestSubmit();
      } else if (event.key === "Escape") this.stop?.abort();
    });
    this.empty = byId("empty");
    for (const idea of this.empty.querySelectorAll(".idea")) idea.addEventListener("click", () => this.ask(idea.textContent));
    byId("fresh").addEventListener("click", () => this.restart());
  }

  mine(job) {
    return job.name !== null && this.names.has(job.name);
  }

  async ask(question) {
    if (!question || this.stop) return;
    this.turns.push({ role: "user", content: question });
    this.text.value = "";
    this.empty.remove();
    const answer = make("p", "words");
    const meta = make("p", "meta", "waiting for the first token");
    this.said.append(make("div", "turn user", make("p", "words", question)), make("div", "turn answer", answer, meta));
    this.said.scrollTop = this.said.scrollHeight;
    this.busy(true, meta);
    const words = document.createTextNode("");
    answer.append(words);
    try {
      await this.listen(words, meta);
    } catch (error) {
      say(meta, error.name === "AbortError" ? "stopped" : `not answered: ${error.message}`);
      meta.classList.toggle("wrong", error.name !== "AbortError");
    }
    if (words.data) this.turns.push({ role: "assistant", content: words.data });
    else this.turns.pop();
    if (!words.data) answer.remove();
    this.busy(false);
  }

  async listen(words, meta) {
    const body = { messages: this.turns, max_new_tokens: Number(byId("most").value), stream: true, user: CLIENT };
    const response = await call("chat", { body, signal: this.stop.signal });
    for await (const event of events(response)) {
      this.claim(event.job_id);
      const { scrollTop, scrollHeight, clientHeight } = this.said;
      const follows = scrollHeight - scrollTop - clientHeight < NEAR;
      words.appendData(event.text);
      if (event.is_final) {
        this.now = null; // the feed may still speak of the job
        say(meta, summary(event));
      }
      if (event.error) meta.classList.add("wrong");
      if (follows) this.said.scrollTop = this.said.scrollHeight;
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
    this.stop = on ? new AbortController() : null;
    this.now = on ? { name: null, meta, since: this.world.now() - SLACK } : null;
    this.said.setAttribute("aria-busy", String(on)); // a screen reader hears the answer when it is whole
    say(byId("send"), on ? "Stop" : "Send");
    byId("send").classList.toggle("stop", on);
    this.text.required = !on;
    byId("fresh").disabled = on;
    this.said.scrollTop = this.said.scrollHeight;
  }

  restart() {
    this.turns = [];
    this.names.clear();
    this.said.replaceChildren(this.empty);
    byId("fresh").disabled = true;
    this.text.focus();
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
