// A conversation: a form, what is said, and an answer that streams in and can be stopped. Where it goes is a subclass's.

import { byId, make, say } from "./dom.js";

export const WAITS = "waiting for the first token";
const NEAR = 60; // px from the end within which the conversation follows what is written

/** listen(question, write, meta) is a subclass's: it calls write(text) for each piece of the answer, and may say things
 *  in the element meta below it. */
export class Talk {
  constructor() {
    this.turns = []; // {role, content}
    this.stop = null; // AbortController while an answer streams
    this.said = byId("said");
    this.text = byId("text");
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.stop) this.stop.abort();
      else this.ask(this.text.value.trim());
    });
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !this.stop) {
        event.preventDefault();
        byId("ask").requestSubmit();
      } else if (event.key === "Escape") this.stop?.abort();
    });
    this.empty = byId("empty");
    for (const idea of this.empty.querySelectorAll(".idea")) idea.addEventListener("click", () => this.ask(idea.textContent));
    byId("fresh").addEventListener("click", () => this.restart());
  }

  async ask(question) {
    if (!question || this.stop) return;
    this.turns.push({ role: "user", content: question });
    this.text.value = "";
    this.empty.remove();
    const answer = make("p", "words");
    const meta = make("p", "meta", WAITS);
    this.said.append(make("div", "turn user", make("p", "words", question)), make("div", "turn answer", answer, meta));
    this.said.scrollTop = this.said.scrollHeight;
    this.busy(true, meta);
    const words = document.createTextNode("");
    answer.append(words);
    const write = (text) => {
      const { scrollTop, scrollHeight, clientHeight } = this.said;
      const follows = scrollHeight - scrollTop - clientHeight < NEAR;
      words.appendData(text);
      if (follows) this.said.scrollTop = this.said.scrollHeight;
    };
    try {
      await this.listen(question, write, meta);
    } catch (error) {
      say(meta, error.name === "AbortError" ? "stopped" : `not answered: ${error.message}`);
      meta.classList.toggle("wrong", error.name !== "AbortError");
    }
    if (words.data) this.turns.push({ role: "assistant", content: words.data });
    else this.turns.pop();
    if (!words.data) answer.remove();
    this.busy(false);
  }

  busy(on) {
    this.stop = on ? new AbortController() : null;
    this.said.setAttribute("aria-busy", String(on)); // a screen reader hears the answer when it is whole
    say(byId("send"), on ? "Stop" : "Send");
    byId("send").classList.toggle("stop", on);
    this.text.required = !on;
    byId("fresh").disabled = on;
    this.said.scrollTop = this.said.scrollHeight;
  }

  restart() {
    this.turns = [];
    this.said.replaceChildren(this.empty);
    byId("fresh").disabled = true;
    this.text.focus();
  }
}
