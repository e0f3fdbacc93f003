// One schedule over time: a row a slot with the visits of jobs, and below them how many wait. A dark edge is a
// preemption; the shaded beginning of a visit is its prefill.

import { HUES, colours } from "./palette.js";
import { jobHue, levelHue, search } from "./schedule.js";
import { ticks } from "./view.js";

export const GUTTER = 34; // px beside the rows
const ALL_ROWS = 150; // px of them, where they are that many
const TALLEST = 16; // px of one
const BACKLOG = 44; // px
const GAP = 8;
const UNDER = 18; // px of the axis
const LABELLED = 11; // px from which a row has numbers
const FONT = "10px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
const DIMMED = 0.22; // how strongly others are drawn where a job is selected
const SHADE = 0.3; // over a prefill
const SEEN = 5; // px of a selected job's visits at least

export class Chart {
  /** canvas: the drawing; over: what moves above it. shared: {view, colourBy, selected, scale}, of both charts. */
  constructor(canvas, over, shared) {
    Object.assign(this, { canvas, over, shared, schedule: null });
    this.paint = canvas.getContext("2d");
    this.above = over.getContext("2d");
    this.colours = colours();
    this.awaited = false;
    new ResizeObserver(() => this.fit()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.colours = colours();
      this.draw();
    });
  }

  set(schedule) {
    this.schedule = schedule;
    this.row = Math.max(2, Math.min(TALLEST, Math.floor(ALL_ROWS / Math.max(1, schedule.slots))));
    this.rows = this.row * schedule.slots;
    this.height = this.rows + GAP + BACKLOG + UNDER;
    this.canvas.parentElement.style.height = `${this.height}px`;
    this.fit();
  }

  fit() {
    if (!this.schedule) return;
    const scale = devicePixelRatio || 1;
    this.width = this.canvas.parentElement.clientWidth;
    for (const [canvas, paint] of [[this.canvas, this.paint], [this.over, this.above]]) {
      canvas.width = Math.round(this.width * scale);
      canvas.height = Math.round(this.height * scale);
      canvas.style.width = `${this.width}px`;
      canvas.style.height = `${this.height}px`;
      paint.setTransform(scale, 0, 0, scale, 0, 0);
    }
    this.draw();
  }

  get across() {
    return Math.max(1, this.width - GUTTER);
  }

  x(at) {
    const { view } = this.shared;
    return GUTTER + ((at - view.from) / view.span) * this.across;
  }

  time(x) {
    const { view } = this.shared;
    return view.from + ((x - GUTTER) / this.across) * view.span;
  }

  /** The visit under these px, or null. */
  visitUnder(x, y) {
    if (y >= this.rows || x < GUTTER) return null;
    const { view } = this.shared;
    return this.schedule.visitAt(Math.floor(y / this.row), this.time(x), (2 * view.span) / this.across);
  }

  hueOf(visit, level) {
    return this.shared.colourBy === "job" ? jobHue(visit.job) : levelHue(level);
  }

  /** Soon, once, however often it is asked for. */
  draw() {
    if (this.awaited || !this.schedule) return;
    this.awaited = true;
    requestAnimationFrame(() => {
      this.awaited = false;
      this.drawNow();
    });
  }

  drawNow() {
    const { paint, colours: { row, muted }, schedule, width } = this;
    paint.clearRect(0, 0, width, this.height);
    paint.font = FONT;
    paint.textBaseline = "middle";
    paint.fillStyle = row;
    const inset = this.row > 4 ? 1 : 0;
    for (let slot = 0; slot < schedule.slots; slot++) paint.fillRect(GUTTER, slot * this.row, this.across, this.row - inset);
    this.drawVisits(inset);
    this.drawBacklog();
    this.drawCut();
    paint.clearRect(0, 0, GUTTER, this.height);
    paint.fillStyle = muted;
    paint.textAlign = "right";
    const each = Math.max(1, Math.ceil(14 / this.row));
    for (let slot = 0; slot < schedule.slots; slot += each) {
      paint.fillText(String(slot), GUTTER - 6, Math.max(5, slot * this.row + Math.min(this.row, 12) / 2));
    }
    const base = this.rows + GAP + BACKLOG;
    paint.fillText(String(this.shared.scale()), GUTTER - 6, this.rows + GAP + 5);
    paint.fillText("0", GUTTER - 6, base - 5);
    this.drawAxis(base);
    this.drawHead();
  }

  /** All visits in view, those of the selected job last, on top of the others. */
  drawVisits(inset) {
    const { paint, schedule, width } = this;
    const { view, selected } = this.shared;
    const reached = new Float64Array(schedule.slots).fill(GUTTER); // px of each row that are drawn
    const tall = this.row - inset;
    const end = search(schedule.visits, view.to, (visit) => visit.from);
    const chosen = [];
    paint.globalAlpha = selected === null ? 1 : DIMMED;
    for (let i = search(schedule.visits, view.from - schedule.longest, (visit) => visit.from); i < end; i++) {
      const visit = schedule.visits[i];
      const to = Math.min(width, this.x(visit.to));
      if (to < GUTTER) continue;
      if (visit.job === selected) chosen.push([visit, to]);
      else if (to > reached[visit.slot]) {
        reached[visit.slot] = Math.max(to, this.drawVisit(visit, to, visit.slot * this.row, tall) + 1);
      }
    }
    paint.globalAlpha = 1;
    const high = Math.max(tall, SEEN);
    for (const [visit, to] of chosen) this.drawVisit(visit, to, visit.slot * this.row - (high - tall) / 2, high, true);
  }

  /** Returns where it begins. */
  drawVisit(visit, to, top, tall, chosen = false) {
    const { paint, colours: { fill, text, ink, surface }, width } = this;
    const from = Math.max(GUTTER, this.x(visit.from));
    let wide = { begin: from, room: 0, level: -1 }; // where there is most room for its number
    for (const [nth, part] of visit.parts.entries()) {
      const begin = nth ? Math.max(GUTTER, this.x(part.at)) : from;
      if (nth && begin >= to) break;
      const next = visit.parts[nth + 1];
      const room = (next ? Math.min(to, this.x(next.at)) : to) - begin;
      if (room > wide.room) wide = { begin, room, level: part.level };
      paint.fillStyle = fill[this.hueOf(visit, part.level) - 1];
      paint.fillRect(begin, top, Math.max(chosen ? 2 : 1, to - begin), tall);
    }
    const long = to - from;
    if (long < 3) return from;
    const ready = Math.min(to, this.x(visit.ready));
    if (ready > from) {
      const { globalAlpha } = paint;
      paint.globalAlpha = globalAlpha * SHADE;
      paint.fillStyle = ink;
      paint.fillRect(from, top, ready - from, tall);
      paint.globalAlpha = globalAlpha;
    }
    if (!visit.lasts && this.x(visit.to) <= width) {
      const edge = visit.preempted && long >= 8 ? 2 : 1;
      paint.fillStyle = visit.preempted ? ink : surface;
      paint.fillRect(to - edge, top, edge, tall);
    }
    const label = String(visit.job);
    if (this.row >= LABELLED && wide.room > 6.2 * label.length + 7) {
      paint.fillStyle = text[this.hueOf(visit, wide.level) - 1];
      paint.textAlign = "left";
      paint.fillText(label, wide.begin + 3, top + tall / 2 + 0.5);
    }
    if (chosen && long >= 6) {
      paint.strokeStyle = ink;
      paint.lineWidth = 1;
      paint.strokeRect(from - 0.5, top - 0.5, long + 1, tall + 1);
    }
    return from;
  }

  /** Who waits, by colour of their level, from the first level on top; both charts to one scale. */
  drawBacklog() {
    const { paint, colours: { fill, line, muted }, schedule: { backlog } } = this;
    const { view, colourBy } = this.shared;
    const top = this.rows + GAP;
    const base = top + BACKLOG;
    const most = this.shared.scale();
    const byLevel = colourBy === "level";
    const seen = new Float64Array(HUES);
    let place = Math.max(0, search(backlog.at, view.from) - 1);
    for (let px = 0; px < this.across; px++) {
      const until = view.from + ((px + 1) / this.across) * view.span;
      if (view.from + (px / this.across) * view.span > this.schedule.until) break;
      let [best, sum] = [place, -1]; // the fullest moment within this pixel
      for (; ; place++) {
        if (backlog.sums[place] > sum) [best, sum] = [place, backlog.sums[place]];
        if (place + 1 >= backlog.at.length || backlog.at[place + 1] > until) break;
      }
      seen.set(backlog.counts[best]);
      let y = base;
      for (let nth = HUES - 1; nth >= 0; nth--) {
        if (!seen[nth]) continue;
        const high = (seen[nth] / most) * BACKLOG;
        paint.fillStyle = byLevel ? fill[nth] : muted;
        paint.fillRect(GUTTER + px, y - high, 1, high);
        y -= high;
      }
    }
    paint.fillStyle = line;
    paint.fillRect(GUTTER, base, this.across, 1);
  }

  drawCut() {
    const { paint, schedule, colours: { surface, muted } } = this;
    if (schedule.cut === null) return;
    const from = Math.max(GUTTER, this.x(schedule.cut));
    if (from >= this.width) return;
    paint.fillStyle = surface;
    paint.fillRect(from, 0, this.width - from, this.rows + GAP + BACKLOG);
    paint.strokeStyle = muted;
    paint.setLineDash([4, 4]);
    paint.strokeRect(from + 0.5, 0.5, this.width - from - 1, this.rows + GAP + BACKLOG - 1);
    paint.setLineDash([]);
    paint.fillStyle = muted;
    paint.textAlign = "left";
    if (this.width - from > 130) paint.fillText("not kept from here on", from + 8, 12);
  }

  drawAxis(base) {
    const { paint, colours: { muted } } = this;
    const { view } = this.shared;
    const { at, decimals } = ticks(view.from, view.to, Math.max(2, Math.floor(this.across / 110)));
    paint.fillStyle = muted;
    for (const second of at) {
      const x = this.x(second);
      paint.fillRect(Math.min(this.width - 1, x), base, 1, 4);
      paint.textAlign = x < GUTTER + 20 ? "left" : x > this.width - 24 ? "right" : "center";
      paint.fillText(`${second.toFixed(decimals)} s`, x, base + 11);
    }
  }

  /** The moment that is looked at. */
  drawHead() {
    const { above, colours: { ink } } = this;
    const { view } = this.shared;
    above.clearRect(0, 0, this.width, this.height);
    if (!view.inView(view.at)) return;
    const x = Math.min(this.width - 1, this.x(view.at));
    above.fillStyle = ink;
    above.fillRect(x - 0.75, 0, 1.5, this.rows + GAP + BACKLOG);
    above.beginPath();
    above.moveTo(x - 6, this.rows + GAP + BACKLOG + 8);
    above.lineTo(x + 6, this.rows + GAP + BACKLOG + 8);
    above.lineTo(x, this.rows + GAP + BACKLOG);
    above.fill();
  }
}
