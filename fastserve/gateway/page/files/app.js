// The gateway's page: its status, asked for again and again, and each part draws what it needs of it.

import { Models } from "./models.js";
import { Routes } from "./routes.js";
import { byId, say } from "./shared/dom.js";
import { call } from "./shared/wire.js";
import { Servers } from "./servers.js";
import { AnyModel } from "./talk.js";

const EACH = 1000; // ms from one answer to the next question
const LONGEST = 8000; // ms between two questions while nobody answers

const talk = new AnyModel();
const parts = [new Servers(ask), new Routes(), new Models(ask), talk];
let timer = 0;
let pause = EACH;
let asking = null;

/** Status now, whatever is being asked already: after something was changed. */
async function ask() {
  clearTimeout(timer);
  asking?.abort();
  const own = new AbortController();
  asking = own;
  try {
    const status = await (await call("gateway/status", { signal: own.signal })).json();
    if (own.signal.aborted) return;
    show("live", "live");
    draw(status);
    pause = EACH;
  } catch (error) {
    if (own.signal.aborted) return;
    show("broken", "reconnecting");
    pause = Math.min(2 * pause, LONGEST);
    if (!(error instanceof TypeError)) console.warn("the status:", error);
  }
  asking = null;
  if (!document.hidden) timer = setTimeout(ask, pause);
}

function draw(status) {
  say(byId("router"), status.router ?? "");
  say(byId("running"), `${status.in_flight} in flight`);
  const healthy = status.upstreams.filter((each) => each.state === "healthy").length;
  const none = status.upstreams.length > 0 && !healthy;
  byId("alarm").hidden = !none;
  say(byId("alarm"), none ? "No server is healthy: requests are refused until one is." : "");
  for (const part of parts) part.draw(status);
}

function show(state, words) {
  byId("link").dataset.state = state;
  say(byId("link").lastElementChild, words);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
    show("waiting", "paused");
  } else ask();
});
addEventListener("online", ask);
ask();
