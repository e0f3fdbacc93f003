// The servers behind the gateway: what they do now, and what can be done with them.

import { button, Items, meter } from "./kept.js";
import { byId, make, say } from "./shared/dom.js";
import { count, duration, many } from "./shared/format.js";
import { call } from "./shared/wire.js";

const SOURCES = { load: "as it says itself", metrics: "by its metrics", counted: "counted here" };
const STATES = { healthy: "healthy", failing: "failing", draining: "draining", starting: "not seen yet" };
const path = (name) => `gateway/upstreams/${encodeURIComponent(name)}`;

export class Servers {
  /** changed() is called after something was done. */
  constructor(changed) {
    this.changed = changed;
    this.items = new Items(byId("servers"), (element, name) => this.build(element, name), "server");
    byId("add").addEventListener("submit", (event) => {
      event.preventDefault();
      this.add();
    });
  }

  draw(status) {
    byId("no-servers").hidden = status.upstreams.length > 0 || Boolean(status.models); // a request starts its server
    this.most = Math.max(1, ...status.upstreams.map(busy)); // bars of servers that name no slots can be compared
    this.items.draw(status.upstreams, (each) => each.name);
  }

  failed(message) {
    say(byId("upstreams-say"), message);
    byId("upstreams-say").classList.toggle("failure", Boolean(message));
  }

  async add() {
    try {
      const body = { url: byId("url").value, weight: Number(byId("weight").value) };
      if (byId("key").value) body.key = byId("key").value;
      await call("gateway/upstreams", { body });
      byId("url").value = "";
      byId("key").value = "";
      this.failed("");
    } catch (error) {
      this.failed(error.message);
    }
    this.changed();
  }

  build(element, name) {
    const state = make("span", "state");
    const about = make("p", "about");
    const view = make("p", "about");
    const batch = { ...meter(), words: make("span") };
    const memory = { ...meter(), words: make("span") };
    const act = async (method, body) => {
      await call(path(name), { method, body });
      this.changed();
    };
    let draining = false;
    const failed = (message) => this.failed(message && `${name}: ${message}`);
    const drain = button("Drain", () => act("PATCH", { drain: !draining }), failed);
    const remove = button("Remove", () => act("DELETE"), failed);
    const weight = make("input");
    Object.assign(weight, { type: "number", min: "0.01", step: "any", title: "Weight" });
    weight.setAttribute("aria-label", `Weight of ${name}`);
    weight.addEventListener("change", () => {
      if (weight.reportValidity()) act("PATCH", { weight: Number(weight.value) }).catch((error) => failed(error.message));
    });
    drain.setAttribute("aria-label", `Drain ${name}`);
    remove.setAttribute("aria-label", `Remove ${name}`);
    const acts = make("span", "acts", make("label", "about", "weight ", weight), drain, remove);
    const bars = make("div", "load", batch.element, batch.words, memory.element, memory.words);
    element.append(make("div", "title", make("b", "", name), state, acts), bars, about, view);
    return (each) => {
      draining = each.state === "draining";
      state.dataset.state = each.state;
      say(state, STATES[each.state] ?? each.state);
      say(drain, draining ? "Resume" : "Drain");
      drain.setAttribute("aria-label", `${draining ? "Resume" : "Drain"} ${name}`);
      remove.hidden = Boolean(each.owner);
      if (document.activeElement !== weight) weight.value = String(each.weight);
      say(about, facts(each));
      say(view, known(each));
      drawLoad(each, this.most, batch, memory);
    };
  }
}

function facts(each) {
  const models = each.models.length ? each.models.join(", ") : "no models yet";
  const parts = [each.url, each.kind || "kind not known", models, many(each.requests, "request")];
  if (each.tokens) parts.push(`${count(each.tokens)} tokens`);
  if (each.errors) parts.push(`${count(each.errors)} failed`);
  if (each.retries) parts.push(`${count(each.retries)} sent again elsewhere`);
  if (each.owner) parts.push(`started by ${each.owner}`);
  return parts.join(" · ");
}

/** What is known of its load, how old that is, and why it is not well. */
function known(each) {
  const { fault, cooldown_seconds: rest } = each;
  const load = now(each);
  const parts = [];
  if (each.state === "healthy" && load.source) {
    const age = load.source === "counted" ? "" : `, ${duration(load.age_seconds)} ago`;
    parts.push(`load ${SOURCES[load.source] ?? load.source}${age}`);
  }
  if (load.queued_tokens) parts.push(`${count(load.queued_tokens)} prompt tokens to compute`);
  if (load.expected_tokens) parts.push(`${count(load.expected_tokens)} tokens expected`);
  if (fault) parts.push(fault);
  if (rest) parts.push(`rests for ${duration(rest)}`);
  return parts.join(" · ");
}

/** Its load; of one that is down nothing is known any more. */
const now = ({ state, load }) => (state === "failing" ? {} : load ?? {});
const runningOf = (each) => now(each).running ?? each.outstanding;
const busy = (each) => runningOf(each) + (now(each).waiting ?? 0);

function drawLoad(each, most, batch, memory) {
  const load = now(each);
  const running = runningOf(each);
  const waiting = load.waiting ?? 0;
  const places = load.slots || most;
  const words = `${running}${load.slots ? `/${load.slots}` : ""} running, ${waiting} waiting`;
  say(batch.words, words);
  batch.draw(words, [["busy", running / places], ["queued", waiting / places]]);
  const { free_tokens: free, pool_tokens: pool, cached_tokens: cached = 0 } = load;
  const told = pool > 0 && free != null;
  memory.element.toggleAttribute("hidden", !told);
  memory.words.hidden = !told;
  if (!told) return;
  const used = Math.max(0, pool - free - cached);
  const held = `KV ${Math.round((100 * used) / pool)} % in use`;
  say(memory.words, held);
  memory.draw(`${held}, ${Math.round((100 * cached) / pool)} % remembered`, [["kv", used / pool], ["remembered", cached / pool]]);
}
