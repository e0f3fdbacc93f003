// Who holds a place and who waits, at the moment that is looked at: a chip a job.

import { make, say } from "./shared/dom.js";
import { count } from "./shared/format.js";
import { Moment, jobHue, levelHue } from "./schedule.js";
import { happened } from "./words.js";

const MOST_CHIPS = 120; // of a list; the style sheet shows as many as there is room for

export class Board {
  /** root: the element of one schedule; select(job): somebody has clicked on one. */
  constructor(root, shared, select) {
    Object.assign(this, { shared, select, moment: null, schedule: null });
    const part = (name) => root.querySelector(`[data-part="${name}"]`);
    this.running = part("running");
    this.waiting = part("waiting");
    this.counts = part("counts");
    this.news = part("news");
  }

  set(schedule) {
    this.schedule = schedule;
    this.moment = new Moment(schedule);
    this.draw(true);
  }

  draw(anew = false) {
    if (!this.moment || (!this.moment.go(this.shared.view.at) && !anew)) return;
    const { moment, schedule } = this;
    const slots = [...moment.running].sort((a, b) => a[0] - b[0]).map(([, job]) => job);
    const queue = [...moment.waiting.keys()];
    const order = (job) => moment.level.get(job) ?? 0;
    const arrival = (job) => schedule.lives.get(job)?.arrival ?? 0;
    queue.sort((a, b) => order(a) - order(b) || arrival(a) - arrival(b));
    this.fill(this.running, slots, "running");
    this.fill(this.waiting, queue, "waiting");
    const times = moment.preemptions === 1 ? "1 preemption" : `${count(moment.preemptions)} preemptions`;
    say(
      this.counts,
      `${count(slots.length)} of ${count(schedule.slots)} slots · ${count(queue.length)} waiting · ` +
        `${count(moment.ended)} ended · ${times}`,
    );
    this.tell(moment.last);
  }

  tell(event) {
    if (!event) return say(this.news, "nothing has happened yet");
    const life = this.schedule.lives.get(event.job);
    const first = life?.first === event.at;
    const what = happened(event, this.schedule, { first, arrival: life?.arrival });
    say(this.news, event.job < 0 ? what : `job ${event.job}: ${what}`);
    this.news.title = this.news.textContent;
    this.news.dataset.kind = event.kind;
  }

  fill(list, jobs, what) {
    const shown = jobs.slice(0, MOST_CHIPS);
    while (list.children.length < shown.length) list.append(make("li", "", this.chip()));
    while (list.children.length > shown.length) list.lastChild.remove();
    const { moment } = this;
    for (const [nth, job] of shown.entries()) {
      const chip = list.children[nth].firstChild;
      const wait = moment.waiting.get(job);
      const state = moment.held.has(job) ? "held" : what === "running" ? "running" : wait.back ? "preempted" : "waiting";
      const level = moment.level.get(job) ?? -1;
      const byJob = this.shared.colourBy === "job";
      say(chip, String(job));
      chip.dataset.job = job;
      chip.dataset.state = state;
      chip.dataset.hue = byJob ? jobHue(job) : levelHue(level);
      chip.classList.toggle("mine", job === this.shared.selected);
      chip.ariaLabel = `job ${job}, ${state}${level > 0 ? `, Q${level}` : ""}`;
    }
    list.dataset.more = jobs.length ? "" : "nobody";
  }

  chip() {
    const chip = make("button", "chip");
    chip.type = "button";
    chip.tabIndex = -1; // there are hundreds; by keyboard a job is chosen by its number
    chip.addEventListener("click", () => this.select(Number(chip.dataset.job)));
    return chip;
  }
}
