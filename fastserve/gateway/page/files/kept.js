// Lists whose items stay the same elements while what they show changes: focus and half-typed numbers survive.

import { make } from "./shared/dom.js";

export class Items {
  /** list: an element; tag, className: of an item. build(item, key) fills a new one, and returns how to draw it. */
  constructor(list, build, className = "") {
    this.list = list;
    this.build = build;
    this.className = className;
    this.items = new Map(); // key -> {element, draw}
  }

  /** Shows these, in this order. key(entry): what it is. */
  draw(entries, key) {
    const left = new Set(this.items.keys());
    entries.forEach((entry, index) => {
      const name = key(entry);
      left.delete(name);
      let item = this.items.get(name);
      if (!item) {
        const element = make("li", this.className);
        item = { element, draw: this.build(element, name) };
        this.items.set(name, item);
      }
      item.draw(entry);
      if (this.list.children[index] !== item.element) this.list.insertBefore(item.element, this.list.children[index] ?? null);
    });
    for (const name of left) {
      this.items.get(name).element.remove();
      this.items.delete(name);
    }
  }
}

/** A button that does something with the server, and is off meanwhile. act() may throw; failed(message) hears of it. */
export function button(text, act, failed, className = "small quiet") {
  const element = make("button", className, text);
  element.type = "button";
  element.addEventListener("click", async () => {
    element.disabled = true;
    try {
      await act();
      failed("");
    } catch (error) {
      failed(error.message);
    }
    element.disabled = false;
  });
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** A bar of parts, each [className, share of 1]; label: what it says to those who do not see it. */
export function meter() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "meter");
  svg.setAttribute("viewBox", "0 0 100 1");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const draw = (label, parts) => {
    svg.setAttribute("aria-label", label);
    while (svg.childElementCount < parts.length) svg.append(document.createElementNS(SVG, "rect"));
    let at = 0;
    parts.forEach(([name, share], index) => {
      const rect = svg.children[index];
      const width = Math.max(0, Math.min(100 - at, 100 * share));
      for (const [key, value] of Object.entries({ class: name, x: at, y: 0, width, height: 1 })) rect.setAttribute(key, String(value));
      at += width;
    });
  };
  return { element: svg, draw };
}
