// A crop box over the photo: mouse, touch and keyboard. It works in fractions of the upright photo,
// as the API does, so it does not care how large the photo is drawn.

import { el } from "./dom.js";

const WHOLE = [0, 0, 1, 1];
const LEAST = 0.1; // the smallest side, as a fraction
const STEP = 0.02;
const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

export class CropBox {
  constructor(frame, box, onChange) {
    this.frame = frame;
    this.box = box;
    this.onChange = onChange;
    this.rect = [...WHOLE];
    box.append(...HANDLES.map((name) => el("span", { className: `handle ${name}`, data: { handle: name } })));
    frame.addEventListener("pointerdown", (event) => this.#start(event));
    box.addEventListener("keydown", (event) => this.#key(event));
    this.#draw();
  }

  /** null while the box covers the whole photo. */
  get value() {
    return this.whole ? null : [...this.rect];
  }

  get whole() {
    return this.rect.every((x, i) => Math.abs(x - WHOLE[i]) < 0.005);
  }

  /** Shows a crop without telling anybody; null is the whole photo. */
  set(rect) {
    this.rect = [...(rect ?? WHOLE)];
    this.#draw();
  }

  reset() {
    if (!this.whole) this.#change(WHOLE);
  }

  #change(rect) {
    this.set(rect);
    this.onChange(this.value);
  }

  #move([x0, y0, x1, y1], dx, dy) {
    dx = clamp(dx, -x0, 1 - x1);
    dy = clamp(dy, -y0, 1 - y1);
    this.#change([x0 + dx, y0 + dy, x1 + dx, y1 + dy]);
  }

  #resize([x0, y0, x1, y1], handle, dx, dy) {
    if (handle.includes("w")) x0 = clamp(x0 + dx, 0, x1 - LEAST);
    if (handle.includes("e")) x1 = clamp(x1 + dx, x0 + LEAST, 1);
    if (handle.includes("n")) y0 = clamp(y0 + dy, 0, y1 - LEAST);
    if (handle.includes("s")) y1 = clamp(y1 + dy, y0 + LEAST, 1);
    this.#change([x0, y0, x1, y1]);
  }

  #point(event) {
    const area = this.frame.getBoundingClientRect();
    return [clamp((event.clientX - area.left) / area.width, 0, 1), clamp((event.clientY - area.top) / area.height, 0, 1)];
  }

  #start(event) {
    if (event.button !== 0) return;
    const handle = event.target.dataset.handle;
    const inside = !handle && !this.whole && event.target === this.box;
    if (!handle && !inside && event.pointerType === "touch") return; // leaves the page scrollable
    event.preventDefault();
    this.box.focus({ preventScroll: true, focusVisible: false });
    const from = [...this.rect];
    const [px, py] = this.#point(event);
    const follow = (move) => {
      const [x, y] = this.#point(move);
      if (handle) this.#resize(from, handle, x - px, y - py);
      else if (inside) this.#move(from, x - px, y - py);
      else this.#drawNew(px, py, x, y);
    };
    const stop = () => {
      this.frame.removeEventListener("pointermove", follow);
      this.frame.classList.remove("dragging");
    };
    this.frame.setPointerCapture(event.pointerId);
    this.frame.classList.add("dragging");
    this.frame.addEventListener("pointermove", follow);
    this.frame.addEventListener("lostpointercapture", stop, { once: true });
  }

  #drawNew(ax, ay, bx, by) {
    const rect = [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)];
    if (rect[2] - rect[0] >= LEAST && rect[3] - rect[1] >= LEAST) this.#change(rect);
  }

  #key(event) {
    const arrows = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    if (event.key === "Escape") {
      this.reset();
    } else if (event.key in arrows && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      const [dx, dy] = arrows[event.key];
      if (event.shiftKey) this.#resize(this.rect, "se", dx, dy);
      else this.#move(this.rect, dx, dy);
    }
  }

  #draw() {
    const [x0, y0, x1, y1] = this.rect;
    const percent = (x) => `${(x * 100).toFixed(2)}%`;
    Object.assign(this.box.style, { left: percent(x0), top: percent(y0), width: percent(x1 - x0), height: percent(y1 - y0) });
    this.frame.classList.toggle("whole", this.whole);
    const round = (x) => Math.round(x * 100);
    this.box.setAttribute("aria-label", this.whole ? "The whole photo" :
      `From ${round(x0)} to ${round(x1)} percent across and ${round(y0)} to ${round(y1)} percent down`);
  }
}
