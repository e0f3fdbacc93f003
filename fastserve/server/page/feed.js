// The stream /live: open while somebody looks at this tab, opened again when it breaks.

import { call, events } from "./shared/wire.js";

const FIRST = 500;
const LONGEST = 8000;
const SILENCE = 40_000; // ms; the server says something at least every 15 s

/** take(message) is called for each message, show(state, words) when the connection changes. */
export class Feed {
  constructor(take, show) {
    this.take = take;
    this.show = show;
    this.pause = FIRST;
    this.stop = null; // AbortController of the stream that is open
    this.timer = 0;
    document.addEventListener("visibilitychange", () => this.look());
    addEventListener("online", () => this.retry());
    this.look();
  }

  look() {
    if (document.hidden) {
      clearTimeout(this.timer);
      this.stop?.abort();
      this.show("waiting", "paused");
    } else this.retry();
  }

  retry() {
    clearTimeout(this.timer);
    if (!this.stop && !document.hidden) this.read();
  }

  async read() {
    const stop = new AbortController();
    this.stop = stop;
    let watchdog = 0;
    const heard = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => stop.abort(), SILENCE);
    };
    try {
      this.show("waiting", "connecting");
      const response = await call("live", { signal: stop.signal });
      heard();
      for await (const message of events(response, heard)) {
        this.pause = FIRST;
        this.show("live", "live");
        this.take(message);
      }
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof TypeError)) console.warn("the live feed:", error);
    }
    clearTimeout(watchdog);
    this.stop = null;
    if (document.hidden) return;
    this.show("broken", "reconnecting");
    this.timer = setTimeout(() => this.retry(), this.pause);
    this.pause = Math.min(this.pause * 2, LONGEST);
  }
}
