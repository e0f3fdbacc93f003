// Numbers as people read them.

const plain = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const NONE = "–";

export function count(number) {
  return number == null ? NONE : plain.format(number);
}

/** So many of them: 1 request, 2 requests. */
export function many(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** Seconds, with three digits that mean something: 870 µs, 43 ms, 1.27 s, 2 min 5 s. */
export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return NONE;
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.01) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1e3)} ms`;
  if (seconds < 9.995) return `${seconds.toFixed(2)} s`;
  if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** 0 to 1 as percent, with two digits that mean something. */
export function share(part) {
  if (part == null || !Number.isFinite(part)) return NONE;
  const percent = 100 * part;
  return `${percent < 9.95 ? percent.toFixed(1) : Math.round(percent)} %`;
}

/** A setting as one would type it; null is what the server chooses by itself. */
export function setting(value) {
  if (value === null) return "none";
  if (typeof value === "number") return Number.isInteger(value) ? plain.format(value) : String(value);
  if (typeof value === "object") return JSON.stringify(value);
  return String(value);
}

export function median(values) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
