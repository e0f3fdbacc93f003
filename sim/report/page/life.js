// The life of one job under both schedules that are shown: its figures, a strip of waiting and running on one scale, and
// its moments with what the policy said of it. A moment is a button that leads there.

import { make, say } from "./shared/dom.js";
import { duration } from "./shared/format.js";
import { levelHue } from "./schedule.js";
import { figures, happened, saying } from "./words.js";

const MOST_MOMENTS = 300;

export class LifePanel {
  constructor(root, seek) {
    this.root = root;
    this.seek = seek;
    this.moments = []; // {at, element}, by schedule
  }

  clear(words) {
    this.moments = [];
    this.root.replaceChildren(make("p", "note", words));
  }

  /** schedules: those that are shown, in their order. */
  show(job, schedules) {
    const lives = schedules.map((schedule) => schedule.lives.get(job)).filter(Boolean);
    if (!lives.length) return this.clear(`job ${job} is not among those that are kept here`);
    const [any] = lives;
    const longest = Math.max(...schedules.map((one) => this.length(one, job)));
    const about = `prompt of ${any.prompt.toLocaleString("en-US")} tokens, arrived at ${any.arrival.toFixed(3)} s`;
    const client = any.client ? [make("p", "client", "client ", make("bdi", "", any.client))] : [];
    this.moments = [];
    const parts = schedules.map((schedule) => this.under(schedule, job, longest));
    this.root.replaceChildren(make("p", "about", about), ...client, ...parts);
  }

  length(schedule, job) {
    const life = schedule.lives.get(job);
    return life ? Math.max(1e-6, (life.end ?? schedule.until) - life.arrival) : 0;
  }

  under(schedule, job, longest) {
    const life = schedule.lives.get(job);
    const part = make("div", "under-policy", make("h4", "", make("bdi", "", schedule.label)));
    part.dataset.label = schedule.label;
    if (!life) {
      part.append(make("p", "note", "it had not arrived where this schedule ends"));
      return part;
    }
    const numbers = make("dl", "figures");
    for (const [name, words] of figures(life, schedule.until)) {
      const number = make("div", "", make("dt", "", name), make("dd", "", words));
      number.dataset.figure = name;
      numbers.append(number);
    }
    part.append(this.strip(schedule, life, longest), numbers, this.list(schedule, life));
    return part;
  }

  strip(schedule, life, longest) {
    const strip = make("div", "strip");
    const end = life.end ?? schedule.until;
    const percent = (seconds) => `${(100 * seconds) / longest}%`;
    strip.style.width = percent(end - life.arrival);
    const whole = Math.max(1e-9, end - life.arrival);
    for (const visit of life.visits) {
      for (const [nth, stay] of visit.parts.entries()) {
        const to = visit.parts[nth + 1]?.at ?? visit.to;
        const piece = make("i");
        piece.dataset.hue = levelHue(stay.level);
        piece.style.left = `${(100 * (stay.at - life.arrival)) / whole}%`;
        piece.style.width = `${(100 * Math.max(0, to - stay.at)) / whole}%`;
        strip.append(piece);
      }
    }
    strip.title = `${life.visits.length} visits to the batch in ${duration(whole)}`;
    return strip;
  }

  list(schedule, life) {
    const list = make("ol", "moments");
    let was = -1;
    let first = true;
    const { moments } = life;
    const rows = [];
    for (const event of moments.slice(0, MOST_MOMENTS)) {
      const isFirst = first && event.kind === "prefilled";
      if (isFirst) first = false;
      const what = happened(event, schedule, { was, first: isFirst, arrival: life.arrival });
      if (event.level > 0 && event.kind !== "copy") was = event.level;
      const says = saying(event, schedule);
      const button = make("button", "moment", make("time", "", `${event.at.toFixed(3)} s`), make("span", "", what));
      button.type = "button";
      button.tabIndex = rows.length ? -1 : 0;
      button.dataset.kind = event.kind;
      if (says) button.append(make("q", "", make("bdi", "", says)));
      button.addEventListener("click", () => this.seek(event.at));
      list.append(make("li", "", button));
      rows.push({ at: event.at, element: button });
    }
    if (moments.length > MOST_MOMENTS) {
      list.append(make("li", "note", `and ${moments.length - MOST_MOMENTS} more moments, which are not listed`));
    }
    this.moments.push(rows);
    list.addEventListener("keydown", (event) => along(event, list));
    return list;
  }

  /** Marks where in each list the moment is that is looked at. */
  mark(at) {
    for (const rows of this.moments) {
      let current = null;
      for (const row of rows) if (row.at <= at + 1e-9) current = row;
      for (const row of rows) {
        const now = row === current;
        if (now !== row.element.hasAttribute("aria-current")) row.element.toggleAttribute("aria-current", now);
        if (now) row.element.setAttribute("aria-current", "true");
        row.element.classList.toggle("ahead", row.at > at + 1e-9);
      }
    }
  }
}

/** A list of buttons is one stop of the tab key; arrows go on from there. */
function along(event, list) {
  const buttons = [...list.querySelectorAll("button")];
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const next = buttons[buttons.indexOf(document.activeElement) + step];
  if (!step || !next) return;
  event.preventDefault();
  for (const button of buttons) button.tabIndex = button === next ? 0 : -1;
  next.focus();
}

/** The jobs that are worth looking at, and why, as buttons; select: called with one of `notable`. */
export function hints(root, notable, select) {
  root.hidden = !notable.length;
  for (const one of notable) {
    const button = make("button", "hint", make("strong", "", String(one.job)), " ", make("bdi", "", one.why));
    button.type = "button";
    button.title = one.why;
    button.addEventListener("click", () => select(one));
    root.append(make("li", "", button));
  }
  if (notable.length) say(root.previousElementSibling, "Worth looking at");
}
