// Figures beside the pictures: tiles, KV pools, percentiles, the policy's settings.

import { byId, make, say } from "./shared/dom.js";
import { count, duration, setting, share } from "./shared/format.js";

const SPAN = 3; // s over which tokens per second are measured
const BRAIN = "scheduling";
const GUESSED = "accepted"; // there once something was guessed
const TILES = ["running", "waiting", "held back", "preemptions", "ended", "tokens/s", "found", GUESSED, BRAIN];
const TIMES = [
  ["jct", "Completion", "job completion time: from arrival to the last token"],
  ["ttft", "First token", "time to first token"],
  ["tpot", "Each further", "time per output token after the first"],
];

export class Meters {
  constructor(world) {
    this.world = world;
    this.tiles = new Map(TILES.map((name) => [name, tile(name)]));
    byId("tiles").append(...[...this.tiles.values()].map(({ element }) => element));
    this.pools = new Map(["device", "host"].map((name) => [name, pool(name)]));
    byId("pools").append(...[...this.pools.values()].map(({ element }) => element));
    this.times = new Map(TIMES.map(([name, title, meaning]) => [name, row(title, meaning)]));
    byId("times").tBodies[0].append(...[...this.times.values()].map(({ element }) => element));
    this.past = []; // {at, tokens} of the last seconds
  }

  draw() {
    const { stats } = this.world;
    if (!stats) return;
    const { counters } = stats;
    const put = (name, text) => say(this.tiles.get(name).value, text);
    put("running", `${stats.running}/${stats.slots}`);
    put("waiting", count(stats.waiting));
    put("held back", count(stats.held));
    put("found", this.found(stats.hits));
    this.tiles.get("found").element.title = "share of the prompts of the last minutes that was in the prefix cache";
    put(GUESSED, counters.draft_tokens ? share(counters.accepted_tokens / counters.draft_tokens) : "–");
    this.tiles.get(GUESSED).element.hidden = !counters.draft_tokens;
    this.tiles.get(GUESSED).element.title = `of ${count(counters.draft_tokens)} guesses of next tokens that were verified`;
    put("preemptions", count(counters.preemptions));
    put("ended", count(this.ended(counters)));
    put("tokens/s", this.pace(stats));
    put(BRAIN, stats.steps ? share(stats.scheduler_share) : "–");
    this.tiles.get(BRAIN).element.title = `of the time of iterations; ${duration(stats.scheduler_us / 1e6)} each`;
    for (const [name, shown] of this.pools) this.fill(shown, stats[name], name);
    for (const [name, { cells }] of this.times) {
      ["p50", "p95", "p99"].forEach((key, index) => say(cells[index], duration(stats[name][key])));
    }
  }

  found(hits) {
    const asked = hits.reduce((sum, [, all]) => sum + all, 0);
    return asked ? share(hits.reduce((sum, [, , part]) => sum + part, 0) / asked) : "–";
  }

  ended(counters) {
    return Object.keys(counters).reduce((sum, name) => sum + (name.startsWith("finished_") ? counters[name] : 0), 0);
  }

  pace({ at, running, counters }) {
    if (this.past.length && (at < this.past.at(-1).at || counters.output_tokens < this.past.at(-1).tokens)) this.past = [];
    this.past.push({ at, tokens: counters.output_tokens });
    while (this.past.length > 2 && this.past[1].at < at - SPAN) this.past.shift();
    const first = this.past[0];
    if (!running || at - first.at < 0.2) return running ? "…" : "0";
    return count((counters.output_tokens - first.tokens) / (at - first.at));
  }

  /** Of the device, `used` runs and `parked` does not; of the host, `used` is kept and `parked` is on its way. */
  fill({ bar, used, parked, rest, words }, { total, used: inUse, parked: aside, idle }, name) {
    const part = (tokens) => `${total ? (100 * tokens) / total : 0}%`;
    used.style.width = part(inUse);
    parked.style.width = part(aside);
    rest.style.width = part(idle);
    const [first, second] = name === "device" ? ["running", "parked"] : ["kept", "on the way"];
    const of = total === null ? "unlimited" : `of ${count(total)}`;
    const remembers = idle ? ` · ${count(idle)} idle` : "";
    say(words, `${count(inUse)} ${first} · ${count(aside)} ${second}${remembers} · ${of}`);
    bar.setAttribute("aria-valuenow", total ? String(Math.round((100 * (inUse + aside)) / total)) : "0");
    bar.setAttribute("aria-valuetext", words.textContent);
  }

  /** What does not change while a server runs. */
  introduce() {
    const { model, settings, knobs, derived } = this.world.about;
    say(byId("model"), model);
    say(byId("policy"), settings.policy);
    const note = document.getElementById("untrained"); // gone once a conversation has begun
    if (note) note.hidden = settings.model !== "embedded";
    const shown = [["policy", settings.policy], ...Object.entries({ ...knobs, ...derived })];
    const { policy: _, knobs: __, model: ___, derived: ____, ...engine } = settings;
    const list = byId("knobs");
    list.replaceChildren(
      ...shown.map(([name, value], index) => knob(name, value, index ? "knob" : "knob name")),
      ...Object.entries(engine).map(([name, value]) => knob(name, value, "knob engine")),
    );
  }
}

function tile(name) {
  const value = make("dd", "", "–");
  return { element: make("div", "tile", make("dt", "", name), value), value };
}

function pool(name) {
  const used = make("i", "used");
  const parked = make("i", "parked");
  const rest = make("i", "spare");
  const words = make("p");
  const bar = make("div", "bar", used, parked, rest);
  bar.setAttribute("role", "meter");
  bar.setAttribute("aria-label", `KV memory of the ${name}`);
  bar.setAttribute("aria-valuemin", "0");
  bar.setAttribute("aria-valuemax", "100");
  return { element: make("div", `pool ${name}`, make("b", "", name), bar, words), bar, used, parked, rest, words };
}

function row(title, meaning) {
  const cells = [0, 1, 2].map(() => make("td", "", "–"));
  const head = make("th", "", title);
  head.scope = "row";
  head.title = meaning;
  return { element: make("tr", "", head, ...cells), cells };
}

function knob(name, value, className) {
  return make("div", className, make("dt", "", name.replaceAll("_", " ")), make("dd", typeof value === "number" ? "number" : "", setting(value)));
}
