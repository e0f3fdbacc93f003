// Okabe and Ito's colours for the queue levels, cool to hot: what has been served for long is hot. Deeper than these
// eight, their last one goes on in steps of lightness. The style sheet has the values (--level-1 ... --level-12, and
// --on-level-N for text on them), for light and dark.

export const HUES = 12;

/** Which of the colours a level has, from 1; level counts from 0, null where a policy has no levels. */
export const hue = (level) => (level === null ? 1 : Math.min(level + 1, HUES));

/** The colours as the style sheet has them now, for a canvas. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  const numbers = Array.from({ length: HUES }, (_, index) => index + 1);
  return {
    fill: numbers.map((number) => read(`--level-${number}`)),
    text: numbers.map((number) => read(`--on-level-${number}`)),
    row: read("--row"),
    ink: read("--ink"),
    muted: read("--muted"),
    surface: read("--surface"),
    line: read("--line"),
  };
}
