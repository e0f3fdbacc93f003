// Building and changing elements. Text is only ever set as text: what a model says is never markup.

/** The element with this id. Throws where the page has none. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

/** A new element with a class and children: elements, or strings that become text. */
export function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Sets text that differs from what is there, and touches nothing else. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Whether this visitor asked for less motion; read anew each time. */
const still = matchMedia("(prefers-reduced-motion: reduce)");
export const calm = () => still.matches;
