// Requests to this server, with the token where it asks for one, and its streams of events.

import { askForToken } from "./gate.js";

const KEY = "fastserve.token";
const DONE = "[DONE]"; // the last event of OpenAI's streams

/** What the server said when it refused or failed. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The answer to a request that was taken; asks for a token, and again, while it is refused for want of one.
 *  body: sent as JSON, by POST where no method is given. Throws Refused, or what fetch throws. */
export async function call(path, { body, signal, method = body ? "POST" : "GET" } = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEY);
    const headers = {};
    if (token) headers.Authorization = `Bearer ${token}`;
    if (body) headers["Content-Type"] = "application/json";
    const response = await fetch(path, {
      method,
      headers,
      body: body && JSON.stringify(body),
      signal,
      cache: "no-store",
    });
    if (response.ok) return response;
    const why = await reason(response);
    if (response.status !== 401) throw new Refused(response.status, why);
    if (sessionStorage.getItem(KEY) === token) {
      sessionStorage.removeItem(KEY);
      sessionStorage.setItem(KEY, await askForToken(token ? why : ""));
    }
  }
}

/** One sentence from an error body of either shape: FastAPI's `detail` or OpenAI's `error`. */
async function reason(response) {
  const fallback = `the server answered ${response.status} ${response.statusText}`.trim();
  try {
    const { detail, error } = await response.json();
    if (Array.isArray(detail)) return detail.map((fault) => fault.msg).join("; ");
    return detail ?? error?.message ?? fallback;
  } catch {
    return fallback;
  }
}

/** The JSON of each event of a stream, as it comes. heard is called for every chunk, comments too. */
export async function* events(response, heard = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      heard();
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data:"));
        const text = data.map((line) => line.slice(5)).join("\n").trim();
        if (text && text !== DONE) yield JSON.parse(text);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
