// Starting points for someone without a photo: pieces near random directions of the embedding space,
// a few of each vertical. Needs no list of the catalogue, only the index's dimension.

import { searchVector } from "./api.js";
import { card } from "./results.js";
import { byId, el } from "./dom.js";

const PIECES = 10;

function randomDirection(dim) {
  const gauss = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  const vector = Array.from({ length: dim }, gauss);
  const length = Math.hypot(...vector);
  return vector.map((x) => x / length);
}

async function pick(index, { verticals, attributes }, signal) {
  const names = verticals.length ? verticals : index.verticals.map((one) => one.name).slice(0, PIECES);
  const each = Math.max(1, Math.ceil(PIECES / Math.max(1, names.length)));
  const searches = names.map((name) => searchVector(randomDirection(index.dim), { k: each, verticals: [name], attributes, group: true }, signal));
  const replies = await Promise.all(searches);
  const rows = Array.from({ length: each }, (_, row) => replies.map((reply) => reply.results[row]));
  return rows.flat().filter(Boolean).slice(0, PIECES).map(({ score, ...item }) => item); // the score of a random query says nothing
}

/** Fills the section; it stays hidden where the index is empty or doesn't answer. */
export async function showStart(index, filters, handlers, signal) {
  const place = byId("start");
  try {
    const items = await pick(index, filters, signal);
    if (!items.length) return;
    const again = el("button", { type: "button", className: "quiet", on: { click: handlers.onShuffle } }, "Show others");
    place.replaceChildren(
      el("div", { className: "start-head" }, el("h2", { className: "label" }, "Or start from the catalogue"), again),
      el("ul", { className: "grid" }, ...items.map((item) => card(item, { ...handlers, onUnlike: null }))));
    place.hidden = false;
  } catch (problem) {
    if (problem.name !== "AbortError") place.hidden = true;
  }
}
