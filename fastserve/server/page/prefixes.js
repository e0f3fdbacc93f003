// Shared prefixes: a row a context, from its first token on. What several begin with is drawn as one block over their
// rows. Below it the share of prompts that was found, over the last minutes.

import { byId, make, say } from "./shared/dom.js";
import { count, duration, share } from "./shared/format.js";

const MOST = 300; // s of the curve
const HEIGHT = 44; // of its view box
const STATES = { running: ["running", "in use"], waiting: ["waiting", "kept for one that waits"], idle: ["spare", "idle"] };

export class Prefixes {
  constructor(world) {
    this.world = world;
    this.rows = []; // {element, name, bar, words, why}
    this.place = byId("contexts");
    this.section = byId("prefixes");
  }

  draw() {
    const { about, stats, contexts, prefix } = this.world;
    if (!stats || !about) return;
    const on = about.settings.prefix_cache === "on";
    this.section.hidden = !on && !contexts.some((row) => row.state === "held");
    if (this.section.hidden) return;
    this.furnish(contexts.length);
    const most = Math.max(1, ...contexts.map((row) => row.tokens));
    const seen = new Map(); // number of a run -> rows that begin with it
    for (const row of contexts) for (const [run] of row.segments) seen.set(run, (seen.get(run) ?? 0) + 1);
    contexts.forEach((row, index) => this.fill(this.rows[index], row, contexts[index - 1], contexts[index + 1], most, seen));
    say(byId("no-contexts"), contexts.length ? "" : "Nothing on the device. Requests of one program, or with one beginning, show here what they share.");
    byId("hits").hidden = !on;
    if (on) this.curve(stats.hits, prefix);
  }

  furnish(number) {
    while (this.rows.length > number) this.rows.pop().element.remove();
    while (this.rows.length < number) {
      const [name, bar, words, why] = [make("b"), make("div", "context"), make("span", "size"), make("small")];
      const element = make("li", "", name, bar, words, why);
      this.rows.push({ element, name, bar, words, why });
      this.place.append(element);
    }
  }

  fill({ element, name, bar, words, why }, row, above, below, most, seen) {
    element.dataset.state = row.state;
    const job = row.id === null ? "" : `job ${row.id}`;
    const whose = row.name || (row.program ? `program ${row.program}` : row.client);
    say(name, [job, whose].filter(Boolean).join(" · "));
    const there = row.segments.reduce((sum, [, tokens]) => sum + tokens, 0);
    const own = Math.min(row.own, Math.max(0, row.tokens - there));
    const parts = row.segments.map(([run, tokens, state]) => {
      const many = seen.get(run);
      const [kind, words] = STATES[state];
      const title = `${count(tokens)} tokens, ${words}${many > 1 ? `, shared by ${many} contexts` : ""}`;
      const place = [has(above, run) ? "" : "begins", has(below, run) ? "" : "ends"].filter(Boolean).join(" ");
      return part(`run ${kind}${many > 1 ? ` shared ${place}` : ""}`, tokens / most, title);
    });
    if (own) parts.push(part(`run ${row.state === "running" ? "running" : "waiting"}`, own / most, `${count(own)} tokens of its own, not shared`));
    const host = Math.min(row.host, Math.max(0, row.tokens - there - own));
    if (host) parts.push(part("run onhost", host / most, `${count(host)} tokens on the host`));
    const rest = row.tokens - there - own - host;
    if (rest > 0) parts.push(part("run missing", rest / most, `${count(rest)} tokens to be computed when it runs again`));
    this.put(bar, parts);
    const held = row.state === "held" ? `held back ${duration(row.held_s)}` : row.state;
    say(words, `${count(row.tokens)} · ${held}`);
    say(why, row.why);
    element.title = `${count(there)} of ${count(row.tokens)} tokens are there by content, ${count(own)} of its own`;
  }

  /** Only what differs is touched: this is drawn ten times a second. */
  put(bar, parts) {
    while (bar.children.length > parts.length) bar.lastElementChild.remove();
    parts.forEach(({ className, width, title }, index) => {
      const element = bar.children[index] ?? bar.appendChild(make("i"));
      if (element.className !== className) element.className = className;
      if (element.style.width !== width) element.style.width = width;
      if (element.title !== title) element.title = title;
    });
  }

  curve(points, prefix) {
    const asked = points.reduce((sum, [, all]) => sum + all, 0);
    const found = points.reduce((sum, [, , part]) => sum + part, 0);
    const x = (ago) => MOST - Math.min(MOST, Math.max(0, ago));
    const y = (rate) => HEIGHT - 2 - rate * (HEIGHT - 4);
    const known = points.filter(([, all]) => all > 0).map(([ago, all, part]) => `${x(ago).toFixed(1)},${y(part / all).toFixed(1)}`);
    byId("hit-line").setAttribute("points", known.length === 1 ? `${known[0]} ${known[0].replace(/^[^,]*/, String(MOST))}` : known.join(" "));
    const rate = asked ? share(found / asked) : "–";
    say(byId("hit-words"), `${rate} of ${count(asked)} prompt tokens in 5 minutes`);
    const again = `${count(prefix.evicted ?? 0)} tokens evicted, ${count(prefix.again ?? 0)} of them computed again`;
    say(byId("evicted"), again);
  }
}

const has = (row, run) => Boolean(row?.segments.some(([other]) => other === run));

function part(className, length, title) {
  return { className: className.trim(), width: `${(100 * length).toFixed(2)}%`, title };
}
