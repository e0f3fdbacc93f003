// Talk to any model: by the gateway, which chooses who answers, and keeps the history where it is asked to.

import { byId, make, say } from "./shared/dom.js";
import { count, duration, many } from "./shared/format.js";
import { Talk, WAITS } from "./shared/talk.js";
import { call, events } from "./shared/wire.js";

export class AnyModel extends Talk {
  constructor() {
    super();
    this.session = null;
    this.waits = null; // the element that tells of an answer which has not begun
    this.choice = byId("model");
    byId("kept").addEventListener("change", () => this.restart());
  }

  draw(status) {
    const names = new Set(status.upstreams.flatMap((each) => each.models));
    for (const each of status.models?.models ?? []) for (const name of [each.model_id, ...each.adapters]) names.add(name);
    const wanted = [...names].sort();
    const shown = [...this.choice.options].map((each) => each.value);
    if (wanted.join("\n") !== shown.join("\n")) {
      const { value } = this.choice;
      this.choice.replaceChildren(...wanted.map((name) => Object.assign(make("option", "", name), { value: name })));
      if (names.has(value)) this.choice.value = value;
    }
    byId("send").disabled = !wanted.length;
    const loading = status.models?.models.find((each) => each.model_id === this.choice.value && !each.loaded);
    if (this.waits) say(this.waits, loading ? `${loading.model_id} is ${loading.state}` : WAITS);
    byId("kept-label").hidden = !status.conversations;
  }

  async listen(question, write, meta) {
    this.waits = meta;
    try {
      await this.answer(question, write, meta);
    } finally {
      this.waits = null;
    }
  }

  async answer(question, write, meta) {
    const kept = byId("kept").checked;
    const { signal } = this.stop;
    if (kept && !this.session) this.session = (await (await call("conversations", { method: "POST", signal })).json()).session_id;
    const body = { model: this.choice.value, max_tokens: Number(byId("most").value), stream: true };
    body.stream_options = { include_usage: true };
    body.messages = kept ? [{ role: "user", content: question }] : this.turns;
    if (kept) body.session_id = this.session;
    const began = performance.now();
    let first = null;
    let tokens = 0;
    let reason = null;
    const response = await call("v1/chat/completions", { body, signal });
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message ?? event.error);
      const choice = event.choices?.[0];
      tokens = event.usage?.completion_tokens ?? tokens;
      reason = choice?.finish_reason ?? reason;
      const text = choice?.delta?.content;
      if (!text) continue;
      first ??= performance.now();
      this.waits = null;
      write(text);
    }
    if (!reason) throw new Error("the answer broke off");
    const parts = [`${count(tokens)} tokens in ${duration((performance.now() - began) / 1000)}`];
    if (first) parts.push(`first after ${duration((first - began) / 1000)}`);
    const by = response.headers.get("x-upstream");
    if (by) parts.push(`by ${by}`);
    if (response.headers.get("x-cache") === "hit") parts.push("from the cache");
    const before = Number(response.headers.get("x-conversation-turns"));
    if (before) parts.push(`${many(before, "earlier turn")} kept`);
    const cut = Number(response.headers.get("x-conversation-cut"));
    if (cut) parts.push(`${many(cut, "old message")} cut`);
    if (reason === "length") parts.push("cut at the limit");
    say(meta, parts.join(" · "));
  }

  restart() {
    if (this.session) call(`conversations/${encodeURIComponent(this.session)}`, { method: "DELETE" }).catch(() => {});
    this.session = null;
    super.restart();
  }
}
