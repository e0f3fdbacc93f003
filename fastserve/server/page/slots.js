// The batch over time: one row a slot, the last half minute, coloured by queue level. A dark edge is a preemption.

import { calm } from "./shared/dom.js";
import { colours, hue } from "./palette.js";

const SECONDS = 30;
const MOST = 384; // px of all rows: 64, the usual batch cap, can still be told apart
const AXIS = 18; // px below the rows
const LEFT = 26; // px beside them
const TEXT = 11; // px; rows that are lower carry no numbers
const WIDE = 6; // px from which a span bears a thick edge
const FRAME = 33; // ms
const STEP = 500; // ms, for who asked for less motion

export class Slots {
  constructor(canvas, world) {
    this.canvas = canvas;
    this.world = world;
    this.paint = canvas.getContext("2d");
    this.colours = colours();
    this.rows = 0;
    this.drawn = 0;
    this.awaited = false;
    new ResizeObserver(() => this.fit()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.colours = colours();
      this.draw();
    });
  }

  /** Call when something may have changed: it then draws on by itself while there is anything to see move. */
  wake() {
    const rows = this.world.stats?.slots ?? 0;
    if (rows !== this.rows) {
      this.rows = rows;
      this.canvas.style.height = `${rows * this.height + AXIS}px`;
      this.fit();
    }
    if (this.awaited || document.hidden) return;
    this.awaited = true;
    requestAnimationFrame((at) => this.frame(at));
  }

  get height() {
    return Math.max(2, Math.min(14, Math.floor(MOST / this.rows)));
  }

  frame(at) {
    this.awaited = false;
    if (at - this.drawn >= (calm() ? STEP : FRAME)) {
      this.drawn = at;
      this.draw();
    }
    const before = this.world.now() - SECONDS;
    if (this.world.spans.some((span) => span.to === null || span.to > before)) this.wake();
    else this.draw();
  }

  fit() {
    const { clientWidth, clientHeight } = this.canvas;
    const scale = devicePixelRatio || 1;
    this.canvas.width = Math.round(clientWidth * scale);
    this.canvas.height = Math.round(clientHeight * scale);
    this.paint.setTransform(scale, 0, 0, scale, 0, 0);
    this.draw();
  }

  draw() {
    const { paint, height, rows } = this;
    const width = this.canvas.clientWidth;
    const across = width - LEFT;
    if (!rows || across <= 0) return;
    const { fill, text, row, ink, muted, surface } = this.colours;
    const end = this.world.now();
    const x = (at) => LEFT + ((at - end) / SECONDS + 1) * across;
    paint.clearRect(0, 0, width, this.canvas.clientHeight);
    paint.font = "10px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
    paint.textBaseline = "middle";
    paint.fillStyle = row;
    const inset = height > 4 ? 1 : 0;
    for (let slot = 0; slot < rows; slot++) paint.fillRect(LEFT, slot * height, across, height - inset);
    paint.textAlign = "left";
    for (const span of this.world.spans) {
      const from = Math.max(LEFT, x(span.from));
      const to = Math.min(width, x(span.to ?? end));
      if (to <= LEFT || span.slot >= rows) continue;
      const top = span.slot * height;
      const colour = hue(span.level) - 1;
      const long = Math.max(1, to - from);
      paint.fillStyle = fill[colour];
      paint.fillRect(from, top, long, height - inset);
      const label = String(span.id);
      if (height >= TEXT && long > 6.2 * label.length + 6) {
        paint.fillStyle = text[colour];
        paint.fillText(label, from + 3, top + (height - inset) / 2 + 0.5);
      }
      if (span.to !== null) {
        const edge = span.preempted && long >= WIDE ? 2 : 1;
        paint.fillStyle = span.preempted ? ink : surface;
        paint.fillRect(to - edge, top, edge, height - inset);
      }
    }
    paint.fillStyle = muted;
    paint.textAlign = "right";
    const each = height >= TEXT ? 5 : Math.ceil(rows / 4);
    for (let slot = 0; slot < rows; slot += each) paint.fillText(String(slot), LEFT - 6, slot * height + height / 2);
    const base = rows * height + AXIS / 2 + 2;
    for (const ago of [30, 20, 10, 0]) {
      paint.textAlign = ago === 30 ? "left" : ago ? "center" : "right";
      paint.fillText(ago ? `−${ago} s` : "now", LEFT + (1 - ago / SECONDS) * across, base);
    }
  }
}
