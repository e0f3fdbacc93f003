// Puts the page together from the data that stand in it.

import { byId, make, say } from "./shared/dom.js";
import { count, duration } from "./shared/format.js";
import { HUES } from "./palette.js";
import { Schedule, levelHue, unpacked } from "./schedule.js";
import { View, clock } from "./view.js";
import { Chart } from "./chart.js";
import { Board } from "./board.js";
import { LifePanel, hints } from "./life.js";
import { Player, paceName, paces } from "./player.js";
import { keys, point } from "./hands.js";
import { chart, key } from "./lines.js";

const SLIDER = 10_000; // steps of the slider
const NARROW = "(max-width: 1000px)"; // where a life stands below the schedules
const POINTS = 300; // of a curve over time

const data = JSON.parse(byId("data").textContent);

/** Within which time half of the jobs are done, by series. */
function halves(series) {
  const found = series.map(({ label, x, y }) => [label, x[y.findIndex((part) => part >= 0.5)]]);
  return ["half within: ", ...listed(found.map(([label, at]) => [label, at === undefined ? "–" : duration(at)]))];
}

const listed = (pairs) => pairs.flatMap(([label, words], nth) => [nth ? ", " : "", make("bdi", "", label), ` ${words}`]);

function curves() {
  const root = byId("curves");
  for (const { series, ...options } of data.charts) {
    const words = options.share
      ? (y) => (y === null ? "–" : `${Math.round(100 * y)} %`)
      : (y) => (y === null ? "–" : y.toLocaleString("en-US", { maximumSignificantDigits: 3 }));
    const figure = make("figure", "");
    root.append(figure);
    chart(figure, series, { ...options, words, hint: options.share ? halves(series) : "" });
  }
  if (data.charts.length) key(byId("key"), data.charts[0].series);
}

/** The number of waiting jobs over time, of every schedule, as a chart. */
function backlogs(schedules, looks) {
  const series = schedules.map((schedule) => {
    const { at, counts } = schedule.backlog;
    const step = Math.max(1e-6, schedule.until / POINTS);
    const [x, y] = [[], []];
    for (const [nth, second] of at.entries()) {
      const waiting = counts[nth].reduce((a, b) => a + b, 0);
      if (x.length && second < x.at(-1) + step) y[y.length - 1] = Math.max(y.at(-1), waiting);
      else {
        x.push(second);
        y.push(waiting);
      }
    }
    x.push(schedule.until);
    y.push(y.at(-1));
    return { label: schedule.label, ...looks.get(schedule.label), x, y };
  });
  const figure = make("figure", "");
  byId("curves").append(figure);
  const words = (waiting) => count(waiting);
  const about = { title: data.seed === null ? "Backlog" : `Backlog, seed ${data.seed}`, x: "time of the run (s)", y: "jobs that wait", unit: " s" };
  const notes = [...new Set(schedules.map(({ note }) => note).filter(Boolean))].map((note) => ` (${note})`);
  const hint = ["most at once: ", ...listed(schedules.map(({ label, backlog }) => [label, count(backlog.most)])), ...notes];
  chart(figure, series, { ...about, steps: true, words, hint });
  if (!data.charts.length) key(byId("key"), series);
}

/** A round number, at least so many. */
function roundUp(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return power * [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((times) => times * power >= number);
}

class Stage {
  constructor(schedules) {
    this.schedules = schedules;
    this.view = new View(Math.max(...schedules.map((one) => one.until)));
    const colourBy = schedules.some((one) => one.levels) ? "level" : "job";
    this.shared = { view: this.view, colourBy, selected: null, scale: () => this.scale() };
    this.panels = [...document.querySelectorAll(".panel")].map((root, nth) => this.panel(root, nth));
    if (schedules.length < 2) this.panels.pop().root.remove();
    const { rates, first } = paces(this.view.end);
    this.player = new Player(this.view, first, () => this.tellPlayer());
    this.life = new LifePanel(byId("life"), (at) => this.look(at));
    for (const rate of rates) byId("pace").append(new Option(paceName(rate), rate, false, rate === first));
    this.view.listeners.push((what) => this.changed(what));
    this.wire();
    this.panels.forEach((panel, nth) => this.choose(panel, nth));
    byId("colour").value = colourBy;
    this.legend();
    this.select(null);
    const [{ schedule }] = this.panels;
    this.view.seek(schedule.backlog.fullest ?? 0);
  }

  panel(root, nth) {
    const part = (name) => root.querySelector(`[data-part="${name}"]`);
    const panel = { root, nth, select: part("policy"), frame: part("frame"), tip: part("tip") };
    panel.chart = new Chart(part("canvas"), part("over"), this.shared);
    panel.board = new Board(root, this.shared, (job) => this.pick(job));
    for (const [place, schedule] of this.schedules.entries()) panel.select.append(new Option(schedule.label, place));
    panel.select.addEventListener("change", () => this.choose(panel, Number(panel.select.value)));
    point(this, panel);
    return panel;
  }

  get shown() {
    return this.panels.map((panel) => panel.schedule);
  }

  /** The number of waiting jobs that both charts are high: a round one, so that it rests while time passes. */
  scale() {
    const { from, to } = this.view;
    const most = Math.max(...this.panels.map((panel) => panel.schedule?.mostBetween(from, to) ?? 0));
    return roundUp(Math.max(4, most));
  }

  choose(panel, place) {
    panel.schedule = this.schedules[place];
    panel.select.value = place;
    panel.chart.set(panel.schedule);
    panel.board.set(panel.schedule);
    panel.root.dataset.label = panel.schedule.label;
    const { came, ended } = panel.schedule.told;
    const { cut, note, label } = panel.schedule;
    const limit = cut === null ? "" : `kept up to ${clock(cut, 100)} of the run: ${count(came)} jobs, ${count(ended)} of them to their end`;
    say(panel.root.querySelector('[data-part="note"]'), [note, limit].filter(Boolean).join("; "));
    panel.frame.setAttribute("aria-label", `Schedule of ${label}: ${count(came)} jobs in ${count(panel.schedule.slots)} slots over time`);
    for (const other of this.panels) other.chart.draw();
    if (this.life) this.select(this.shared.selected);
  }

  /** Both schedules of these labels, one above the other, or one beside what is there. */
  show(labels) {
    const places = labels.map((label) => this.schedules.findIndex((one) => one.label === label)).filter((at) => at >= 0);
    const missing = places.filter((place) => !this.shown.includes(this.schedules[place]));
    if (!missing.length) return;
    if (places.length === this.panels.length) this.panels.forEach((panel, nth) => this.choose(panel, places[nth]));
    else this.choose(this.panels.at(-1), missing[0]);
    this.legend();
  }

  changed(what) {
    for (const { chart: drawing, board } of this.panels) {
      if (what === "window") drawing.draw();
      else if (!drawing.awaited) drawing.drawHead();
      board.draw();
    }
    const { at, end, span } = this.view;
    const slider = byId("time");
    slider.value = Math.round((SLIDER * at) / end);
    slider.ariaValueText = clock(at, span);
    say(byId("clock"), clock(at, span));
    say(byId("shown"), span >= end * 0.9999 ? "the whole run" : `${duration(span)} shown`);
    this.life.mark(at);
  }

  /** Goes to a moment, and stops there. */
  look(at) {
    this.player.toggle(false);
    this.view.seek(at);
  }

  select(job) {
    this.shared.selected = job;
    if (job === null) this.life.clear("Click a job in a chart, or a number below it, to see its life under both policies.");
    else this.life.show(job, this.shown);
    say(byId("life-title"), job === null ? "A job's life" : `Job ${job}`);
    byId("unselect").hidden = job === null;
    byId("notable").classList.toggle("brief", job !== null);
    byId("job").value = job ?? "";
    for (const { chart: drawing, board } of this.panels) {
      drawing.draw();
      board.draw(true);
    }
    this.life.mark(this.view.at);
  }

  /** Somebody has chosen it. whole: shows its life from its arrival to its end. */
  pick(job, { whole = false } = {}) {
    this.select(job);
    if (whole) this.reveal(job);
    if (matchMedia(NARROW).matches) document.querySelector("aside").scrollIntoView({ block: "nearest" });
  }

  tellPlayer() {
    const { playing, slow, pace } = this.player;
    const button = byId("play");
    say(button, playing ? "Pause" : "Play");
    button.dataset.playing = playing;
    byId("slow").ariaPressed = String(slow);
    for (const { root } of this.panels) root.querySelector('[data-part="news"]').ariaLive = playing ? "off" : "polite";
    say(byId("pace-now"), slow ? `1 s shows ${duration(pace)}` : "");
  }

  legend() {
    const list = byId("legend");
    list.replaceChildren();
    const row = (hue, words) => {
      const swatch = make("i", "swatch");
      swatch.dataset.hue = hue;
      list.append(make("li", "", swatch, words));
    };
    const deepest = Math.max(0, ...this.shown.map((one) => one.deepest));
    if (this.shared.colourBy === "level") {
      for (let level = 1; level <= Math.min(deepest, HUES); level++) row(levelHue(level), `Q${level}${level === HUES && deepest > HUES ? "+" : ""}`);
      if (this.shown.some((one) => !one.levels)) list.append(make("li", "note", "one colour where a policy has no levels"));
    } else list.append(make("li", "note", "neighbouring numbers have different colours"));
    for (const [kind, words] of [["prefill", "prefill"], ["cut-off", "preempted"]]) {
      list.append(make("li", "", make("i", `swatch ${kind}`), words));
    }
  }

  // -- hands ------------------------------------------------------------------------------------------------------

  wire() {
    const on = (id, event, act) => byId(id).addEventListener(event, act);
    on("play", "click", () => this.player.toggle());
    on("slow", "click", () => this.player.slowMotion());
    on("back", "click", () => this.player.step(this.shown, true));
    on("forth", "click", () => this.player.step(this.shown, false));
    on("pace", "change", () => {
      this.player.rate = Number(byId("pace").value);
      this.tellPlayer();
    });
    on("time", "input", () => this.look((Number(byId("time").value) / SLIDER) * this.view.end));
    on("closer", "click", () => this.view.zoom(0.5));
    on("wider", "click", () => this.view.zoom(2));
    on("whole", "click", () => this.view.show(0, this.view.end));
    on("colour", "change", () => {
      this.shared.colourBy = byId("colour").value;
      this.legend();
      this.select(this.shared.selected);
    });
    on("find", "submit", (event) => {
      event.preventDefault();
      const job = byId("job").value === "" ? null : Number(byId("job").value);
      if (job === null) this.select(null);
      else this.pick(job, { whole: true });
    });
    on("unselect", "click", () => this.select(null));
    keys(this, byId("stage"));
  }

  /** Shows the time from its arrival to its end under all the policies shown, and looks at its arrival. */
  reveal(job) {
    const lives = this.shown.map((schedule) => [schedule.lives.get(job), schedule]).filter(([life]) => life);
    if (!lives.length) return;
    const from = Math.min(...lives.map(([life]) => life.arrival));
    const to = Math.max(...lives.map(([life, schedule]) => life.end ?? schedule.until));
    const room = 0.05 * (to - from);
    this.view.show(from - room, to - from + 2 * room);
    this.look(from);
  }
}

curves();
const able = "DecompressionStream" in globalThis;
if (!able) byId("curves").after(make("p", "note", "This browser cannot unpack the schedules: it is older than 2023."));
const documents = able ? await Promise.all(data.schedules.map((one) => unpacked(one.packed))) : [];
const kept = documents.map((seen, nth) => new Schedule(data.schedules[nth].label, seen, data.schedules[nth].note));
byId("stage").hidden = !kept.length;
if (kept.length) {
  backlogs(kept, new Map(data.schedules.map(({ label, colour, dash }) => [label, { colour, dash }])));
  const stage = new Stage(kept);
  hints(byId("notable"), data.notable, ({ job, labels }) => {
    stage.show(labels);
    stage.pick(job, { whole: true });
  });
  globalThis.stage = stage; // for whoever looks at it from the browser's console
}
