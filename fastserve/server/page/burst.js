// The demo burst: jobs that fill every slot and go on, then waves of short ones that a preemptive policy lets pass.

import { byId, say } from "./shared/dom.js";
import { count, duration, median } from "./shared/format.js";
import { call } from "./shared/wire.js";

const MOST_SLOTS = 64;
const WAVES = [400, 1100, 1800, 2500]; // ms after the start
const TEXT = "The tide came in at noon, and the ferry waited for the last of the travellers. ";
const STORIES = ["a ferry", "a lighthouse", "two sisters", "a clockmaker", "the last train", "a wise old owl", "a lost map"];
const CAPITALS = ["France", "Italy", "Japan", "Spain", "Egypt", "Germany", "Russia", "China", "Greece", "Canada", "Norway"];

/**
 * The requests of a burst for so many slots and tokens of context: {after, client, prompts, tokens, ends}.
 * trained: a model that understands what it is asked and ends its answers itself. ends: stop strings of such.
 */
export function requests(slots, context, trained = false) {
  const width = Math.min(slots, MOST_SLOTS);
  const fit = (most) => Math.max(1, Math.min(most, Math.floor(context / 4)));
  const several = (number, length, ask) => Array.from({ length: number }, (_, i) => (trained ? ask(i, length) : prompt(i, length)));
  const long = Math.ceil(width * 0.4);
  const short = Math.max(2, Math.ceil(width * 0.4));
  return [
    { after: 0, client: "steady", prompts: several(width - long + 2, fit(60), story), tokens: fit(192) },
    { after: 0, client: "long", prompts: several(long, fit(600), story), tokens: fit(256) },
    ...WAVES.map((after) => ({ after, client: "short", prompts: several(short, fit(40), question), tokens: fit(12), ends: [".", "\n"] })),
  ];
}

function prompt(index, length) {
  return `${index + 1}. ${TEXT.repeat(Math.ceil(length / TEXT.length))}`.slice(0, length);
}

/** Goes on behind about so many characters. */
function story(index, length) {
  return `${TEXT.repeat(Math.floor(length / TEXT.length))}This is story ${index + 1}, about ${STORIES[index % STORIES.length]}. Once upon a time`;
}

function question(index) {
  return `The capital of ${CAPITALS[index % CAPITALS.length]} is`;
}

export class Burst {
  constructor(world) {
    this.world = world;
    this.button = byId("burst");
    this.says = byId("burst-says");
    this.stop = null; // AbortController while it lasts
    this.button.addEventListener("click", () => (this.stop ? this.stop.abort() : this.start()));
  }

  async start() {
    const { signal } = (this.stop = new AbortController());
    const took = { short: [], steady: [], long: [] };
    const ended = (job) => ["stop", "length"].includes(job.reason) && took[job.client]?.push(job.took);
    const preempted = this.world.stats.counters.preemptions;
    const { settings, stats } = { settings: this.world.about.settings, stats: this.world.stats };
    say(this.button, "Stop burst");
    say(this.says, "long jobs take the slots, then short ones arrive");
    this.world.onEnd.add(ended);
    try {
      const trained = settings.backend !== "scripted" && settings.model !== "embedded";
      const all = requests(stats.slots, settings.max_model_len, trained);
      await Promise.all(all.map((each) => this.send({ ...each, trained }, signal)));
      await this.settled(signal);
      const more = count(this.world.stats.counters.preemptions - preempted);
      const half = Object.entries(took).filter(([, times]) => times.length);
      const medians = half.map(([client, times]) => `${client} ${duration(median(times))}`).join(", ");
      say(this.says, `${more} preemptions${medians ? ` · median: ${medians}` : ""}`);
    } catch (error) {
      say(this.says, signal.aborted ? "stopped" : `not done: ${error.message}`);
      this.stop.abort(); // what else was sent need not go on
    }
    this.world.onEnd.delete(ended);
    this.stop = null;
    say(this.button, "Demo burst");
  }

  /** One request for all prompts: it keeps one connection, and its jobs end with it when the visitor leaves. */
  async send({ after, client, prompts, tokens, trained, ends = [] }, signal) {
    await pause(after, signal);
    const natural = trained ? { stop: ends } : { ignore_eos: true };
    const body = { model: this.world.about.model, prompt: prompts, max_tokens: tokens, user: client, ...natural };
    await (await call("v1/completions", { body, signal })).arrayBuffer();
  }

  /** The feed comes a little after the answers. */
  async settled(signal) {
    for (let tries = 0; tries < 10 && this.world.jobs.size; tries++) await pause(100, signal);
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    const fail = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    if (signal.aborted) fail();
    else signal.addEventListener("abort", fail, { once: true });
  });
}
