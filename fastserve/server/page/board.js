// The queue levels: one lane each, jobs as chips that move between them, and a last lane for who has ended.

import { byId, calm, make, say } from "./shared/dom.js";
import { duration } from "./shared/format.js";
import { hue } from "./palette.js";

const MOST_LANES = 12; // deeper levels share the last lane
const PRESUMED = 8; // levels of a policy that will say how many with its first job
const MOVE = 320; // ms
const GLOW = 900; // ms: who came to another level
const MOVED = 3; // px
const STATES = { queued: "waiting", running: "running", preempted: "preempted", ended: "ended" };

class Lane {
  constructor(kind) {
    this.name = make("b");
    this.note = make("small");
    this.used = false; // a level that nobody has seen yet is drawn low
    this.chips = make("ol");
    this.more = make("span", "more");
    this.element = make("div", `lane ${kind}`, make("div", "label", this.name, this.note), this.chips, this.more);
  }
}

export class Board {
  /** mine(job): whether a job is this visitor's. */
  constructor(element, world, mine) {
    this.element = element;
    this.world = world;
    this.mine = mine;
    this.lanes = [];
    this.done = new Lane("done");
    this.chips = new Map(); // job -> its element
    this.met = new WeakMap(); // job that had a chip before -> its level then
    this.story = byId("story");
    this.deepest = 0;
    new ResizeObserver(() => this.draw(false)).observe(element);
  }

  /** animated: let chips glide to where they belong now. */
  draw(animated = true) {
    if (!this.world.stats) return;
    const placed = this.placed();
    this.furnish(placed.length);
    const glide = animated && !calm();
    const before = glide ? this.where() : new Map();
    const shown = new Set();
    placed.forEach((jobs, index) => this.fill(this.lanes[index], jobs, shown));
    this.fill(this.done, this.world.ended, shown);
    say(this.done.more, "");
    for (const [job, chip] of this.chips) {
      if (shown.has(job)) continue;
      chip.remove();
      this.chips.delete(job);
    }
    const { news } = this.world;
    say(this.story, news?.text ?? "");
    if (news) this.story.dataset.kind = news.kind;
    if (glide) this.glide(before);
  }

  /** Jobs by lane: who runs first, by slot; then who waits, by turn. */
  placed() {
    const jobs = [...this.world.jobs.values()];
    const known = this.world.levels.length;
    if (known) this.deepest = known - 1;
    else this.deepest = Math.max(this.deepest, this.levels() - 1, ...jobs.map((job) => job.level ?? 0));
    const lanes = Array.from({ length: Math.min(this.deepest + 1, MOST_LANES) }, () => []);
    for (const job of jobs) lanes[Math.min(job.level ?? 0, lanes.length - 1)].push(job);
    const order = (job) => (job.slot === null ? 1e6 + job.entered : job.slot);
    for (const lane of lanes) lane.sort((a, b) => order(a) - order(b));
    return lanes;
  }

  /** As far as is known: none for a policy without them. */
  levels() {
    const { levels, about } = this.world;
    if (levels.length || !("levels" in about.knobs)) return levels.length;
    return typeof about.knobs.levels === "number" && about.knobs.levels ? about.knobs.levels : PRESUMED;
  }

  furnish(number) {
    const flat = this.deepest === 0 && !this.levels();
    this.element.classList.toggle("flat", flat);
    while (this.lanes.length > number) this.lanes.pop().element.remove();
    while (this.lanes.length < number) {
      const lane = new Lane("level");
      lane.element.dataset.hue = hue(this.lanes.length);
      this.lanes.push(lane);
      this.element.append(lane.element);
    }
    if (this.element.lastElementChild !== this.done.element) {
      say(this.done.name, "Done");
      this.element.append(this.done.element);
    }
    say(byId("order"), flat ? "this policy has none" : "top is served first");
    const quanta = this.world.levels;
    this.lanes.forEach((lane, index) => {
      const merged = index === MOST_LANES - 1 && this.deepest >= MOST_LANES;
      say(lane.name, flat ? "Jobs" : `Q${index + 1}${merged ? "+" : ""}`);
      say(lane.note, quanta[index] ? duration(quanta[index]) : "");
      if (quanta[index]) lane.element.title = `The quantum of level ${index + 1} is ${duration(quanta[index])}`;
    });
  }

  /** How many chips a lane can show, wide or narrow ones. */
  room({ chips }) {
    const style = getComputedStyle(this.element);
    const size = (name) => Number.parseFloat(style.getPropertyValue(name));
    const gap = size("--gap");
    const fit = (length, each) => Math.max(1, Math.floor((length + gap) / (each + gap)));
    const rows = fit(chips.clientHeight, size("--chip-height"));
    return { wide: rows * fit(chips.clientWidth, size("--wide")), narrow: rows * fit(chips.clientWidth, size("--narrow")) };
  }

  /** Where many crowd, chips are narrow and say no client. */
  fill(lane, jobs, shown) {
    lane.used ||= jobs.length > 0;
    lane.element.classList.toggle("unused", !lane.used && lane !== this.done);
    const { wide, narrow } = this.room(lane);
    const crowded = lane !== this.done && jobs.length > wide;
    lane.element.classList.toggle("crowded", crowded);
    const visible = jobs.slice(0, crowded ? narrow : wide);
    visible.forEach((job, index) => {
      const chip = this.chip(job);
      shown.add(job);
      if (lane.chips.children[index] !== chip) lane.chips.insertBefore(chip, lane.chips.children[index] ?? null);
    });
    const rest = jobs.length - visible.length;
    say(lane.more, rest ? `+${rest}` : "");
  }

  chip(job) {
    let chip = this.chips.get(job);
    if (!chip) {
      chip = make("li", "chip", make("b", "", String(job.id)), make("span", "client"), make("span", "size"));
      this.chips.set(job, chip);
    }
    const [, client, size] = chip.children;
    const state = job.held ? "held" : STATES[job.state];
    if (chip.dataset.state !== state) chip.dataset.state = state;
    const colour = String(hue(job.level));
    if (chip.dataset.hue !== colour) chip.dataset.hue = colour;
    chip.classList.toggle("mine", this.mine(job));
    say(client, job.client);
    say(size, job.state === "ended" ? duration(job.took) : `${job.prompt}+${job.output}`);
    const title = describe(job, state);
    if (chip.title !== title) chip.title = title;
    return chip;
  }

  where() {
    const found = new Map();
    for (const [job, chip] of this.chips) {
      const { left, top } = chip.getBoundingClientRect();
      found.set(job, { left, top });
    }
    return found;
  }

  /** From where each chip was to where it is now; those of new jobs fade in. */
  glide(before) {
    const now = this.where();
    for (const [job, chip] of this.chips) {
      const old = before.get(job);
      if (!old) {
        if (!this.met.has(job)) chip.animate([{ opacity: 0 }, { opacity: 1 }], { duration: MOVE / 2 });
        this.met.set(job, job.level);
        continue;
      }
      const moved = job.level !== this.met.get(job);
      this.met.set(job, job.level);
      const here = now.get(job);
      const x = old.left - here.left;
      const y = old.top - here.top;
      if (Math.abs(x) + Math.abs(y) < MOVED) continue;
      for (const running of chip.getAnimations()) running.cancel();
      chip.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], {
        duration: MOVE,
        easing: "cubic-bezier(.2,.7,.3,1)",
      });
      if (moved) {
        const ring = getComputedStyle(chip).getPropertyValue("--hue");
        chip.animate([{ boxShadow: `0 0 0 4px ${ring}` }, { boxShadow: "0 0 0 0 transparent" }], { duration: GLOW });
      }
    }
  }
}

function describe(job, state) {
  const facts = [`job ${job.id}`, state === "ended" ? job.reason : state === "held" ? "held back" : state, `${job.prompt} prompt tokens`, `${job.output} generated`];
  if (job.client) facts.push(`client ${job.client}`);
  if (job.cached) facts.push(`${job.cached} found in the cache`);
  if (job.held) facts.push(job.explained);
  if (job.preemptions) facts.push(`preempted ${job.preemptions}×`);
  if (state === "preempted" && job.place === "host") facts.push("its KV is on the host");
  if (state === "ended") facts.push(`took ${duration(job.took)}`);
  return facts.join(", ");
}
