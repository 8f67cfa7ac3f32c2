// The items that results are to be like, and those that they aren't: chips above the results, each can be taken away.

import { getItem, imageUrl } from "./api.js";
import { el } from "./dom.js";
import { titleOf } from "./results.js";

const MOST = 16; // of each side, as the service takes them; the oldest makes room

export class Taste {
  constructor(place, onChange) {
    this.place = place;
    this.onChange = onChange;
    this.likes = [];
    this.unlikes = [];
    this.known = new Map(); // what chips show of items, by id
  }

  get any() {
    return this.likes.length + this.unlikes.length > 0;
  }

  /** Shows these ids without telling anybody. */
  set(likes = [], unlikes = []) {
    this.likes = [...likes].slice(-MOST);
    this.unlikes = unlikes.filter((id) => !likes.includes(id)).slice(-MOST);
    this.#draw();
  }

  /** An item to one side, off the other one. */
  add(item, liked) {
    this.known.set(item.item_id, item);
    const side = (ids, mine) => [...ids.filter((id) => id !== item.item_id), ...(mine ? [item.item_id] : [])];
    this.set(side(this.likes, liked), side(this.unlikes, !liked));
    this.onChange();
  }

  remove(id) {
    const without = (ids) => ids.filter((one) => one !== id);
    this.set(without(this.likes), without(this.unlikes));
    this.onChange();
  }

  #draw() {
    this.place.hidden = !this.any;
    this.place.replaceChildren(
      ...this.likes.map((id) => this.#chip(id, true)),
      ...this.unlikes.map((id) => this.#chip(id, false)),
      ...(this.any ? [el("li", {}, el("button", { type: "button", className: "plain", on: { click: () => this.clear() } }, "Clear all"))] : []),
    );
  }

  clear() {
    this.set();
    this.onChange();
  }

  #chip(id, liked) {
    const image = el("img", { alt: "", width: 30, height: 40 });
    image.addEventListener("error", () => { image.hidden = true; }, { once: true });
    const name = el("span", { className: "pick-name" });
    const button = el("button", { type: "button", on: { click: () => this.remove(id) } }, "×");
    const show = (item) => {
      if (item.attributes) image.src = imageUrl(item);
      name.textContent = item.attributes ? titleOf(item) : item.item_id;
      button.ariaLabel = `${liked ? "No longer more" : "No longer less"} like ${name.textContent}`;
    };
    show(this.known.get(id) ?? { item_id: id });
    if (!this.known.has(id)) this.#learn(id, show);
    const side = el("span", { className: "side" }, liked ? "More like" : "Less like");
    return el("li", { className: `pick ${liked ? "liked" : "unliked"}`, data: { item: id } }, image, el("span", {}, side, name), button);
  }

  async #learn(id, show) {
    try {
      const item = await getItem(id);
      this.known.set(id, item);
      show(item);
    } catch { /* the search itself tells what is wrong */ }
  }
}
