// Models that come and go: what is in memory and how busy, loads and downloads with their progress, the hub.

import { button, Items } from "./kept.js";
import { byId, make, say } from "./shared/dom.js";
import { count, duration, many } from "./shared/format.js";
import { call } from "./shared/wire.js";

const JOBS_EACH = 500; // ms between two looks at jobs while one runs
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Bytes as people read them. */
export function size(bytes) {
  if (bytes == null) return "–";
  const power = Math.min(UNITS.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  const value = bytes / 1024 ** power;
  return `${power && value < 9.95 ? value.toFixed(1) : Math.round(value)} ${UNITS[power]}`;
}

export class Models {
  constructor(changed) {
    this.changed = changed;
    this.watching = 0;
    this.list = new Items(byId("models"), (element, name) => this.model(element, name), "model");
    this.found = new Items(byId("found"), (element, name) => this.result(element, name), "model");
    this.jobs = new Items(byId("jobs"), (element, id) => this.job(element, id), "model");
    byId("find").addEventListener("submit", (event) => {
      event.preventDefault();
      this.search();
    });
  }

  draw(status) {
    const { models } = status;
    byId("unmanaged").hidden = Boolean(models);
    byId("find").hidden = !models;
    if (!models) {
      this.list.draw(served(status), (each) => each.model_id);
      return;
    }
    this.list.draw(models.models, (each) => each.model_id);
    if (models.file && models.file !== "ok") this.failed(models.file);
    const running = ["queued", "downloading", "starting"].some((state) => models.jobs?.[state]);
    if (running && !this.watching) this.watch();
  }

  failed(message) {
    say(byId("models-say"), message);
    byId("models-say").classList.toggle("failure", Boolean(message));
  }

  model(element, name) {
    const state = make("span", "state");
    const about = make("p", "about");
    const wrong = make("p", "failure");
    const failed = (message) => this.failed(message && `${name}: ${message}`);
    const load = button("Load", () => this.load(name), failed);
    const unload = button("Unload", () => this.act("models/unload", { model_id: name }), failed);
    const remove = button("Delete", () => this.remove(name), failed);
    for (const [each, word] of [[load, "Load"], [unload, "Unload"], [remove, "Delete"]]) each.setAttribute("aria-label", `${word} ${name}`);
    const bar = make("progress");
    bar.setAttribute("aria-label", `${name} is starting`);
    element.append(make("div", "title", make("b", "", name), state, make("span", "acts", load, unload, remove)), bar, about, wrong);
    return (each) => {
      state.dataset.state = each.state;
      say(state, each.state === "ready" ? "in memory" : each.state);
      say(about, facts(each));
      say(wrong, each.message ?? "");
      bar.hidden = !["starting", "restarting"].includes(each.state);
      load.hidden = each.loaded !== false || ["starting", "restarting", "stopping"].includes(each.state);
      unload.hidden = !each.loaded;
      remove.hidden = !each.downloaded;
    };
  }

  result(element, name) {
    const about = make("p", "about");
    const load = button("Download and load", () => this.load(name), (message) => this.failed(message), "small");
    load.setAttribute("aria-label", `Download and load ${name}`);
    element.append(make("div", "title", make("b", "", name), make("span", "acts", load)), about);
    return (each) => {
      const parts = [`${count(each.downloads)} downloads`, each.pipeline_tag, each.library];
      if (each.gguf) parts.push("has GGUF files");
      if (each.gated) parts.push("gated: needs a token of the hub");
      say(about, parts.filter(Boolean).join(" · "));
    };
  }

  job(element, id) {
    const title = make("b");
    const state = make("span", "state");
    const bar = Object.assign(make("progress"), { max: 100 });
    const about = make("p", "about");
    const act = async () => {
      await call(`models/jobs/${encodeURIComponent(id)}`, { method: "DELETE" });
      this.look();
    };
    const stop = button("Cancel", act, (message) => this.failed(message));
    element.append(make("div", "title", title, state, make("span", "acts", stop)), bar, about);
    return (each) => {
      say(title, each.model_id);
      state.dataset.state = each.state;
      say(state, each.state);
      stop.setAttribute("aria-label", `Cancel the load of ${each.model_id}`);
      bar.setAttribute("aria-label", `Load of ${each.model_id}`);
      stop.hidden = each.processed;
      bar.hidden = each.processed;
      if (each.total) bar.value = each.progress;
      else bar.removeAttribute("value"); // how much there is to come is not known
      const bytes = each.total ? `${size(each.completed)} of ${size(each.total)}` : "";
      say(about, each.error ?? bytes);
      about.classList.toggle("failure", Boolean(each.error));
    };
  }

  async load(name) {
    await call("models/load", { body: { model_id: name } });
    this.watch();
    this.changed();
  }

  async act(path, body) {
    await call(path, { body });
    this.changed();
  }

  async remove(name) {
    if (!confirm(`Delete the files of ${name} from this machine?`)) return;
    await call(`models/${name.split("/").map(encodeURIComponent).join("/")}`, { method: "DELETE" });
    this.changed();
  }

  async search() {
    const query = byId("query").value.trim();
    if (!query) return;
    this.failed("");
    say(byId("models-say"), "searching");
    try {
      const answer = await call(`models/search/${encodeURIComponent(query)}?limit=8`);
      const { models } = await answer.json();
      this.found.draw(models, (each) => each.model_id);
      say(byId("models-say"), models.length ? "" : "nothing found");
    } catch (error) {
      this.found.draw([], () => "");
      this.failed(error.message);
    }
  }

  watch() {
    clearTimeout(this.watching);
    this.watching = setTimeout(() => this.look(), 0);
  }

  async look() {
    clearTimeout(this.watching);
    this.watching = 0;
    let running = false;
    try {
      const { jobs } = await (await call("models/jobs")).json();
      const now = Date.now() / 1000;
      running = jobs.some((each) => !each.processed);
      const news = (each) => each.state !== "finished" && now - each.ended < 600 && !this.list.items.has(each.model_id);
      const shown = jobs.filter((each) => !each.processed || news(each)); // of a model in the list its row says it
      this.jobs.draw(shown.reverse().slice(0, 8), (each) => each.job_id);
      if (!running) this.changed();
    } catch (error) {
      this.failed(error.message);
    }
    if (running && !document.hidden) this.watching = setTimeout(() => this.look(), JOBS_EACH);
  }
}

function facts(each) {
  const parts = [each.backend, each.path !== each.model_id && each.path];
  if (each.adapters?.length) parts.push(`adapters ${each.adapters.join(", ")}`);
  if (each.loaded) {
    parts.push(each.requests ? many(each.requests, "request") : `idle for ${duration(each.idle_seconds)}`);
    if (each.memory) parts.push(size(each.memory));
    if (each.load_seconds) parts.push(`loaded in ${duration(each.load_seconds)}`);
  }
  if (each.servers) parts.push(many(each.servers, "server"), `${many(each.requests, "request")} now`);
  if (each.restarts) parts.push(`restarted ${each.restarts}×`);
  return parts.filter(Boolean).join(" · ");
}

/** Without a part that loads models: those of the servers, as rows of the same kind. */
function served(status) {
  const rows = new Map();
  for (const each of status.upstreams) {
    for (const name of each.models) {
      const row = rows.get(name) ?? { model_id: name, state: "failing", requests: 0, servers: 0 };
      rows.set(name, row);
      row.servers += 1;
      row.requests += each.outstanding;
      if (each.state === "healthy") row.state = "ready";
    }
  }
  return [...rows.values()].sort((a, b) => (a.model_id < b.model_id ? -1 : 1));
}
