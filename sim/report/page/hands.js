// What keys, pointers and wheels do to a stage: {view, player, shown, look, select, pick}.

import { say } from "./shared/dom.js";
import { duration } from "./shared/format.js";
import { search } from "./schedule.js";
import { GUTTER } from "./chart.js";

const CLICK = 4; // px that a pointer may move in a click

/** Keys work within `root`, and where nothing else has them. */
export function keys(stage, root) {
  const { view, player } = stage;
  const acts = {
    ArrowRight: () => player.step(stage.shown, false),
    ArrowLeft: () => player.step(stage.shown, true),
    "+": () => view.zoom(0.5),
    "=": () => view.zoom(0.5),
    "-": () => view.zoom(2),
    0: () => view.show(0, view.end),
    s: () => player.slowMotion(),
    Home: () => stage.look(0),
    End: () => stage.look(view.end),
    Escape: () => stage.select(null),
    " ": () => player.toggle(),
  };
  document.addEventListener("keydown", (event) => {
    const { target, key: pressed } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(acts, pressed)) return;
    if (target !== document.body && !root.contains(target)) return;
    if (target.closest("input, select, textarea, summary") || (pressed === " " && target.closest("button, a"))) return;
    event.preventDefault();
    acts[pressed]();
  });
}

/** A click on a job selects it, elsewhere it leads to that moment; rows are dragged, what is below them scrubs. */
export function point(stage, panel) {
  const { view } = stage;
  const { frame, chart: drawing, tip } = panel;
  const fingers = new Map();
  let drag = null;
  const where = (event) => {
    const box = frame.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const gap = () => {
    const [one, other] = [...fingers.values()];
    return other === undefined ? 0 : Math.abs(one - other);
  };
  frame.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const [x, y] = where(event);
    fingers.set(event.pointerId, x);
    frame.setPointerCapture(event.pointerId);
    const scrubs = y > drawing.rows;
    drag = { x, from: view.from, span: view.span, moved: false, scrubs, gap: gap() };
    if (scrubs) stage.look(drawing.time(x));
  });
  frame.addEventListener("pointermove", (event) => {
    const [x, y] = where(event);
    if (!drag || !fingers.has(event.pointerId)) return hover(panel, x, y);
    fingers.set(event.pointerId, x);
    tip.hidden = true;
    if (Math.abs(x - drag.x) > CLICK) drag.moved = true;
    if (fingers.size === 2 && drag.gap > 0) {
      drag.moved = true;
      const now = Math.max(1, gap());
      view.zoom(drag.gap / now, drawing.time(x));
      drag.gap = now;
    } else if (drag.scrubs) stage.look(drawing.time(x));
    else if (drag.moved) view.show(drag.from - ((x - drag.x) / drawing.across) * drag.span, drag.span);
  });
  const up = (event) => {
    const [x, y] = where(event);
    fingers.delete(event.pointerId);
    if (drag && !drag.moved && !drag.scrubs && event.type === "pointerup") {
      const visit = drawing.visitUnder(x, y);
      if (visit) stage.pick(visit.job);
      else stage.look(drawing.time(x));
    }
    if (!fingers.size) drag = null;
  };
  frame.addEventListener("pointerup", up);
  frame.addEventListener("pointercancel", up);
  frame.addEventListener("pointerleave", () => (tip.hidden = true));
  frame.addEventListener(
    "wheel",
    (event) => {
      const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
      if (event.ctrlKey || event.metaKey) view.zoom(Math.exp(event.deltaY / 200), drawing.time(where(event)[0]));
      else if (sideways || event.shiftKey) {
        const far = sideways ? event.deltaX : event.deltaY;
        view.show(view.from + (far / drawing.across) * view.span, view.span);
      } else return;
      event.preventDefault();
    },
    { passive: false },
  );
}

/** Says what is under the pointer. */
function hover({ chart: drawing, frame, tip }, x, y) {
  const visit = drawing.visitUnder(x, y);
  frame.style.cursor = visit ? "pointer" : y > drawing.rows ? "ew-resize" : "default";
  tip.hidden = !visit;
  if (!visit) return;
  const nth = Math.max(0, search(visit.parts, drawing.time(x), (part) => part.at) - 1);
  const { level } = visit.parts[nth];
  const how = visit.preempted ? ", then preempted" : "";
  say(tip, `job ${visit.job}${level > 0 ? `, Q${level}` : ""}: ${duration(visit.to - visit.from)} in slot ${visit.slot}${how}`);
  tip.style.left = `${Math.max(GUTTER, Math.min(drawing.width - tip.offsetWidth - 4, x + 12))}px`;
  tip.style.top = `${y + 14}px`;
}
