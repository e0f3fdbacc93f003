// Playing: how many seconds of the run pass in a second, slow motion, and steps from one event to the next.

import { calm } from "./shared/dom.js";
import { search } from "./schedule.js";

const RATES = [0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000];
const WHOLE = 40; // s that the whole run takes at the pace chosen first
const SLOWER = 20; // times, in slow motion
const CROSSING = 12; // s that the shown part takes in slow motion
const STILL = 500; // ms between two pictures for who asked for less motion

/** The paces that make sense for a run of so many seconds, and which to begin with. */
export function paces(seconds) {
  const rates = RATES.filter((rate) => rate <= Math.max(1, seconds / 5));
  const wanted = Math.log(Math.max(seconds, 1e-3) / WHOLE);
  const first = rates.reduce((a, b) => (Math.abs(Math.log(b) - wanted) < Math.abs(Math.log(a) - wanted) ? b : a));
  return { rates, first };
}

export function paceName(rate) {
  if (rate === 1) return "real time";
  return rate > 1 ? `${rate.toLocaleString("en-US")}× faster` : `${Math.round(1 / rate).toLocaleString("en-US")}× slower`;
}

export class Player {
  /** changed(): it has begun, ended, or its pace is another. */
  constructor(view, rate, changed) {
    Object.assign(this, { view, rate, changed, playing: false, slow: false, before: null, drawn: 0 });
  }

  /** Seconds of the run in a second. */
  get pace() {
    return this.slow ? this.rate / SLOWER : this.rate;
  }

  toggle(on = !this.playing) {
    if (on === this.playing) return;
    this.playing = on;
    if (on) {
      if (this.view.at >= this.view.end) this.view.seek(0);
      this.last = performance.now();
      requestAnimationFrame((now) => this.frame(now));
    }
    this.changed();
  }

  frame(now) {
    if (!this.playing) return;
    if (!calm() || now - this.drawn >= STILL) {
      this.drawn = now;
      const seconds = Math.min(1, Math.max(0, now - this.last) / 1e3);
      this.last = now;
      this.view.seek(this.view.at + seconds * this.pace, { follow: true });
    }
    if (this.view.at >= this.view.end) this.toggle(false);
    else requestAnimationFrame((next) => this.frame(next));
  }

  /** Slower and closer; back to where it was. */
  slowMotion(on = !this.slow) {
    if (on === this.slow) return;
    const { view } = this;
    this.slow = on;
    if (on) {
      this.before = view.span;
      const span = Math.min(view.span, this.pace * CROSSING);
      view.show(view.at - span / 4, span);
    } else if (this.before !== null) {
      view.show(view.at - this.before / 2, this.before);
      this.before = null;
    }
    this.changed();
  }

  /** To the next event of any of these schedules, or back to the one before. */
  step(schedules, back) {
    this.toggle(false);
    const { at } = this.view;
    const found = schedules.map(({ events }) => {
      const place = search(events, back ? at - 1e-7 : at + 1e-7, (event) => event.at);
      return (back ? events[place - 1] : events[place])?.at;
    });
    const times = found.filter((time) => time !== undefined);
    if (times.length) this.view.seek(back ? Math.max(...times) : Math.min(...times));
    else this.view.seek(back ? 0 : this.view.end);
  }
}
