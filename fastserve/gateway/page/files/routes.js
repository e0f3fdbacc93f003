// The router's last choices: when, which model, who got it, and why.

import { byId, make, say } from "./shared/dom.js";

const NOBODY = "default"; // the client of a request that names none
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

export class Routes {
  constructor() {
    this.last = "";
  }

  draw(status) {
    const recent = status.recent ?? [];
    byId("no-routes").hidden = recent.length > 0;
    const mark = JSON.stringify(recent);
    if (mark === this.last) return;
    this.last = mark;
    byId("routes").replaceChildren(...recent.map(row));
    const to = new Map();
    for (const { upstream } of recent) to.set(upstream, (to.get(upstream) ?? 0) + 1);
    say(byId("routes-say"), recent.length ? [...to].sort().map(([name, times]) => `${name} ${times}`).join(" · ") : "");
  }
}

function row({ at, model, client, upstream, why, failed, broken, again }) {
  const time = make("time", "", clock.format(new Date(1000 * at)));
  const who = make("b", "", upstream);
  const end = failed ? "no answer" : broken ? "broke off" : why;
  const said = [client !== NOBODY && client, again && "sent again", end].filter(Boolean).join(" · ");
  const element = make("li", "", time, make("span", "", model || "any model"), who);
  element.append(make("span", "why", said));
  if (failed || broken) element.dataset.failed = "";
  return element;
}
