// The one time axis that both schedules share: the whole of it, the part that is shown, and the moment that is looked at.

const CLOSEST = 1e-3; // s: the shortest part that can be shown

export class View {
  constructor(end) {
    this.end = Math.max(end, CLOSEST);
    [this.from, this.to, this.at] = [0, this.end, 0];
    this.listeners = []; // called with what has changed: "window" or "at"
  }

  get span() {
    return this.to - this.from;
  }

  tell(what) {
    for (const listener of this.listeners) listener(what);
  }

  /** Shows so many seconds, `anchor` staying where it is. */
  zoom(factor, anchor = this.inView(this.at) ? this.at : (this.from + this.to) / 2) {
    const span = Math.min(this.end, Math.max(CLOSEST, this.span * factor));
    const share = (anchor - this.from) / this.span;
    this.show(anchor - share * span, span);
  }

  show(from, span) {
    const length = Math.min(this.end, Math.max(CLOSEST, span));
    this.from = Math.max(0, Math.min(this.end - length, from));
    this.to = this.from + length;
    this.tell("window");
  }

  inView(at) {
    return at >= this.from && at <= this.to;
  }

  /** Looks at this moment; what is shown follows it where it would leave. */
  seek(at, { follow = false } = {}) {
    this.at = Math.max(0, Math.min(this.end, at));
    const lead = follow ? 0.75 : 1;
    if (this.at < this.from || this.at > this.from + lead * this.span) {
      const before = this.from;
      const wanted = follow && this.at > this.from ? this.at - lead * this.span : this.at - this.span / 2;
      if (this.span < this.end) this.show(wanted, this.span);
      if (before !== this.from) return;
    }
    this.tell("at");
  }
}

/** Round times between `from` and `to`, at most so many, with the decimals that tell them apart. */
export function ticks(from, to, most) {
  const rough = (to - from) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.999);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let n = Math.ceil(from / step - 1e-9); n * step <= to + step * 1e-9; n++) found.push(n * step + 0); // and no −0
  return { at: found, decimals };
}

/** A time of the run, with as many decimals as the part that is shown can tell apart. */
export function clock(seconds, span) {
  const decimals = span > 2000 ? 0 : span > 200 ? 1 : span > 20 ? 2 : span > 2 ? 3 : 4;
  return `${seconds.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals })} s`;
}
