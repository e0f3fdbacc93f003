// What has happened, as sentences. Texts of policies and clients are passed on as they are and set as text only.

import { count, duration } from "./shared/format.js";

const NOT_SAID = new Set(["end", "refused", "copy", "drop", "step_failed", "resized", "prefilled"]);

/** What the policy said of the job at that moment; empty where it was not asked. */
export const saying = (event, { texts }) => (NOT_SAID.has(event.kind) ? "" : texts[event.text]);

/** In a few words. before: the job's event before this one, if any; first: whether it is its first token. */
export function happened(event, { texts }, { was = -1, first = false, arrival = event.at } = {}) {
  const { kind, value, more, level, text } = event;
  switch (kind) {
    case "arrive":
      return `arrived with a prompt of ${count(value)} tokens`;
    case "refused":
      return `arrived and was refused: ${texts[text]}`;
    case "join":
      if (more > 0) return `got slot ${value}, ${count(more)} tokens to prefill`;
      return `got slot ${value}, ${more < 0 ? "and the step waits for its KV from the host" : "its KV is still on the device"}`;
    case "prefilled":
      return first ? `first token, ${duration(event.at - arrival)} after its arrival` : "prefilled again, and goes on";
    case "level":
      return `${was > 0 && level < was ? "promoted" : "demoted"} to Q${level}`;
    case "leave":
      return `preempted: ${texts[more]}`;
    case "hold":
      return "held back by its policy";
    case "release":
      return "held back no longer";
    case "copy":
      return `its KV ${level === 1 ? "goes to" : "comes from"} the host: ${count(value)} blocks in ${duration(more / 1e6)}`;
    case "drop":
      return "its KV is forgotten, and will have to be computed again";
    case "end":
      return `ended (${texts[text]}) with ${count(value)} tokens, ${duration(event.at - arrival)} after its arrival`;
    case "step_failed":
      return texts[text];
    default:
      return `${count(value)} slots from here on`;
  }
}

const times = (n) => (n === 0 ? "never" : n === 1 ? "once" : `${count(n)} times`);

/** The numbers of a life, as [name, words] pairs. at: where it is looked at until, for one that has not ended. */
export function figures(life, until) {
  const end = life.end ?? until;
  const busy = life.inBatch(end);
  const waited = end - life.arrival - busy;
  const done = life.end === null ? "so far" : "";
  return [
    ["JCT", `${duration(end - life.arrival)} ${done}`.trim()],
    ["TTFT", life.first === null ? "–" : duration(life.first - life.arrival)],
    ["waited", waited > 1e-6 ? duration(waited) : "0 s"],
    ["in the batch", duration(busy)],
    ["preempted", times(life.preemptions)],
    ["tokens", count(life.tokens)],
  ];
}
