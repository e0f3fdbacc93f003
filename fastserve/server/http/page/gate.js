// The question for a token. One dialog, however many requests wait for its answer.

import { byId, say } from "./dom.js";

let asked = null;

/** The token that the visitor types. why: what was wrong with the one before. The dialog cannot be waved away. */
export function askForToken(why) {
  asked ??= new Promise((resolve) => {
    const dialog = byId("gate");
    const field = byId("token");
    say(byId("gate-why"), why);
    field.value = "";
    const kept = (event) => event.preventDefault();
    dialog.addEventListener("cancel", kept);
    dialog.querySelector("form").addEventListener(
      "submit",
      () => {
        dialog.removeEventListener("cancel", kept);
        asked = null;
        resolve(field.value.trim());
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asked;
}
