// Curves as SVG: CDFs, the backlog over time, a measure against a setting. Colour, dash and a name each, bands where
// there are intervals, and the values under the pointer.

import { make } from "./shared/dom.js";
import { ticks } from "./view.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDE, HIGH] = [400, 236];
const LETTER = 6.2; // of a mark's text, at most
const EDGE = { left: 44, right: 10, top: 10, bottom: 34 };
const DASHES = { "-": "", "--": "7 4", ":": "2 4", "-.": "8 3 2 3" };

function shape(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** A number for an axis or a readout. */
export function figure(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  return value.toLocaleString("en-US", { maximumSignificantDigits: 3 });
}

/** Round numbers between two, for an axis of logarithms. */
function decades(from, to) {
  const found = [];
  const width = Math.log10(to / from);
  const steps = width > 2.2 ? [1] : width > 0.7 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
  for (let power = Math.floor(Math.log10(from)); power <= Math.ceil(Math.log10(to)); power++) {
    for (const at of steps.map((times) => times * 10 ** power)) if (at >= from * 0.999 && at <= to * 1.001) found.push(at);
  }
  return found.length > 1 ? found : ticks(from, to, 4).at;
}

/** The scale of the values: from 0, or of logarithms, as wide as the curves are; bands may reach beyond. */
function upright(drawn, { top, logY }) {
  const values = drawn.flatMap((one) => one.y).filter((y) => Number.isFinite(y) && (!logY || y > 0));
  let [low, high] = [0, top ?? (Math.max(0, ...values) * 1.06 || 1)];
  if (!logY || !values.length) return { low, high, of: (y) => y / high, at: ticks(0, high, 5).at };
  [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high / low) ** 0.06 * 1.05;
  [low, high] = [low / room, high * room];
  const of = (y) => (y > 0 ? Math.log(y / low) / Math.log(high / low) : 0);
  return { low, high, of, at: decades(low, high) };
}

/**
 * A chart of series: [{label, colour, dash, x, y, low, high, hollow}], x rising. options: x and y, the names of the axes;
 * log: of x; top: of y; steps: y stays until the next x; words: how to say a point, y -> text; hint: nodes that stand below while nobody points.
 */
export function chart(root, series, options) {
  const drawn = series.filter((one) => one.x.length);
  if (!drawn.length) return void root.append(make("p", "note", "nothing to draw"));
  const all = drawn.flatMap((one) => [one.x[0], one.x.at(-1)]);
  let [from, to] = [Math.min(...all), Math.max(...all)];
  if (options.log) from = Math.max(from, to / 1e5, 1e-6);
  if (to <= from) [from, to] = options.log ? [from / 1.5, from * 1.5] : [from - 0.5, from + 0.5];
  const across = WIDE - EDGE.left - EDGE.right;
  const down = HIGH - EDGE.top - EDGE.bottom;
  const { of: risen, at: heights } = upright(drawn, options);
  const place = (x) => (options.log ? Math.log(Math.max(x, from) / from) / Math.log(to / from) : (x - from) / (to - from));
  const px = (x) => EDGE.left + place(x) * across;
  const py = (y) => EDGE.top + (1 - Math.max(0, Math.min(1, risen(y)))) * down;

  const svg = shape("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", class: "lines" });
  svg.append(shape("title", {}, `${options.y} by ${options.x}: ${drawn.map((one) => one.label).join(", ")}`));
  const grid = shape("g", { class: "grid" });
  for (const y of heights) {
    grid.append(shape("line", { x1: EDGE.left, x2: WIDE - EDGE.right, y1: py(y), y2: py(y) }));
    grid.append(shape("text", { x: EDGE.left - 6, y: py(y) + 3.5, "text-anchor": "end" }, figure(y)));
  }
  let free = 0; // where the text of a mark may begin, beside that of the one before
  for (const x of options.log ? decades(from, to) : ticks(from, to, 6).at) {
    grid.append(shape("line", { x1: px(x), x2: px(x), y1: HIGH - EDGE.bottom, y2: HIGH - EDGE.bottom + 4 }));
    const half = figure(x).length * LETTER / 2;
    if (px(x) - half < free) continue;
    free = px(x) + half + LETTER;
    const anchor = px(x) > WIDE - 24 ? "end" : "middle";
    grid.append(shape("text", { x: px(x), y: HIGH - EDGE.bottom + 15, "text-anchor": anchor }, figure(x)));
  }
  const middle = EDGE.left + across / 2;
  grid.append(shape("text", { x: middle, y: HIGH - 4, "text-anchor": "middle", class: "axis-name" }, options.x));
  svg.append(grid);
  for (const one of drawn) svg.append(...curve(one, px, py, options, from));
  const head = shape("line", { class: "head", y1: EDGE.top, y2: HIGH - EDGE.bottom, visibility: "hidden" });
  svg.append(head);

  const readout = make("p", "readout");
  const idle = [...(options.hint ?? [])];
  readout.append(...idle);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width) * WIDE - EDGE.left;
    const part = Math.max(0, Math.min(1, share / across));
    const x = options.log ? from * (to / from) ** part : from + part * (to - from);
    head.setAttribute("x1", px(x));
    head.setAttribute("x2", px(x));
    head.setAttribute("visibility", "visible");
    readout.replaceChildren(`${figure(x)}${options.unit ?? ""}: `);
    for (const [nth, one] of drawn.entries()) {
      readout.append(nth ? ", " : "", make("bdi", "", one.label), ` ${options.words(valueAt(one, x, options))}`);
    }
  });
  svg.addEventListener("pointerleave", () => {
    head.setAttribute("visibility", "hidden");
    readout.replaceChildren(...idle);
  });
  root.append(make("h3", "", options.title), svg, readout);
}

function curve(one, px, py, options, from) {
  const points = one.x.map((x, nth) => [x, one.y[nth]]).filter(([x, y]) => y !== null && (!options.log || x >= from));
  const parts = [];
  if (one.low) {
    const band = one.x.map((x, nth) => [x, one.low[nth], one.high[nth]]).filter(([, low]) => low !== null);
    const ring = [...band.map(([x, , high]) => [x, high]), ...band.map(([x, low]) => [x, low]).reverse()];
    if (ring.length > 2) {
      const path = shape("path", { d: `M${ring.map(([x, y]) => `${px(x)},${py(y)}`).join("L")}Z` });
      path.setAttribute("class", "band");
      path.style.fill = one.colour;
      parts.push(path);
    }
  }
  let path = "";
  for (const [nth, [x, y]] of points.entries()) {
    if (!nth) path = `M${px(x).toFixed(1)},${py(y).toFixed(1)}`;
    else path += options.steps ? `H${px(x).toFixed(1)}V${py(y).toFixed(1)}` : `L${px(x).toFixed(1)},${py(y).toFixed(1)}`;
  }
  const line = shape("path", { d: path, class: "curve", "stroke-dasharray": DASHES[one.dash] ?? "" });
  line.style.stroke = one.colour;
  parts.push(line);
  if (options.dots) {
    for (const [nth, x] of one.x.entries()) {
      if (one.y[nth] === null) continue;
      const dot = shape("circle", { cx: px(x), cy: py(one.y[nth]), r: 3, class: one.hollow?.[nth] ? "hollow" : "" });
      dot.style.fill = one.hollow?.[nth] ? "" : one.colour;
      dot.style.stroke = one.colour;
      parts.push(dot);
    }
  }
  return parts;
}

/** The value of a curve at x: of steps the one that holds, else between its neighbours; null outside. */
function valueAt(one, x, options) {
  let nth = one.x.length - 1;
  while (nth >= 0 && one.x[nth] > x) nth--;
  if (nth < 0) return options.steps ? 0 : null;
  if (options.steps || nth === one.x.length - 1) return options.steps || one.x[nth] === x ? one.y[nth] : null;
  const [a, b] = [one.x[nth], one.x[nth + 1]];
  const [low, high] = [one.y[nth], one.y[nth + 1]];
  return low === null || high === null ? null : low + ((x - a) / (b - a)) * (high - low);
}

/** The names of the series, each with a stroke as it is drawn. */
export function key(root, series) {
  for (const one of series) {
    const svg = shape("svg", { viewBox: "0 0 28 10", width: 28, height: 10, "aria-hidden": "true" });
    const line = shape("path", { d: "M1,5H27", class: "curve", "stroke-dasharray": DASHES[one.dash] ?? "" });
    line.style.stroke = one.colour;
    svg.append(line);
    root.append(make("li", "", svg, make("bdi", "", one.label)));
  }
}
