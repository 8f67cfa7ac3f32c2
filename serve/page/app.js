// The search page: holds what is searched for, runs the search, and shows the answer.

import { getIndex, getItem, itemQuery, searchItem, searchPhoto } from "./api.js";
import { CropBox } from "./crop.js";
import { byId, debounce, el } from "./dom.js";
import { offerFilters, readFilters, showFilters } from "./filters.js";
import { offerFurther } from "./further.js";
import { readLink, rewriteLink, writeLink } from "./link.js";
import { watchPhotos } from "./photo.js";
import { showCrop, showFile, showInvitation, showItem } from "./query.js";
import { card, openDetails, placeholders, statusLine } from "./results.js";
import { showStart } from "./start.js";
import { Taste } from "./taste.js";

const state = {
  file: null, item: null, verticals: [], attributes: {}, k: 20, group: false, index: null,
  get likes() { return taste.likes; },
  get unlikes() { return taste.unlikes; },
};
const photos = []; // those searched for since the page was opened, with their crop: Back returns to them
let running = new AbortController();

const grid = byId("grid");
const title = byId("results-title");
const crop = new CropBox(byId("frame"), byId("box"), () => {
  photos[history.state.photo].crop = crop.value;
  showCrop(Boolean(crop.value));
  searchSoon();
});
const searchSoon = debounce(() => search(), 300);
const taste = new Taste(byId("taste"), () => tasteChanged());
const handlers = {
  onOpen: (item) => openDetails(item, asks()), onMore: (item) => moreLike(item), onShuffle: () => offerStart(),
  onLike: (item) => taste.add(item, true), onUnlike: (item) => taste.add(item, false),
};
const asks = () => Boolean(state.file || state.item || taste.likes.length);

/* ---- the search ---- */

function freshSignal() {
  searchSoon.cancel();
  running.abort();
  running = new AbortController();
  return running.signal;
}

async function search() {
  const signal = freshSignal();
  if (!asks()) return offerStart();
  const { file, item } = state;
  const options = { ...state }; // as they are now: a further page asks for the same
  showBusy();
  try {
    const reply = file ? await searchPhoto(file, crop.value, options, signal) : await searchItem(item, options, signal);
    showAnswer(reply);
    const query = file ? { vector: reply.vector } : itemQuery(item);
    offerFurther({ query, options, next: reply.next, signal, append: showFurther, again: search });
  } catch (problem) {
    if (problem.name !== "AbortError") showError(problem);
  }
}

function newPhoto(file) {
  photos.push({ file, crop: null });
  state.item = null;
  taste.set();
  writeLink(state, photos.length - 1);
  return searchForPhoto(photos.at(-1));
}

function searchForPhoto(photo) {
  state.file = photo.file;
  state.item = null;
  byId("item-id").value = "";
  crop.set(photo.crop);
  showFile(photo.file);
  showCrop(Boolean(crop.value));
  return search();
}

function moreLike(item) {
  byId("details").close();
  taste.set();
  searchForItem(item.item_id, item);
  toTheTop();
}

/** An item was liked or disliked, or no longer: a new step, beside the photo or item that is searched for. */
function tasteChanged() {
  if (!asks()) taste.set(); // nothing to be unlike of
  writeLink(state, history.state?.photo ?? null);
  search();
  toTheTop();
}

function toTheTop() {
  title.focus({ preventScroll: true });
  const top = byId("filters").closest(".answers").getBoundingClientRect().top;
  if (top < 0) scrollTo({ top: scrollY + top - 16 });
}

async function searchForItem(id, known = null, newStep = true) {
  state.file = null;
  state.item = id;
  if (newStep) writeLink(state);
  byId("item-id").value = id;
  if (known) showItem(known);
  const searching = search();
  if (!known) {
    try {
      const item = await getItem(id, running.signal);
      if (state.item === id) showItem(item);
    } catch { /* the search itself tells what is wrong */ }
  }
  await searching;
}

function startOver() {
  state.file = state.item = null;
  taste.set();
  byId("item-id").value = "";
  writeLink(state);
  search();
}

/* ---- the answer ---- */

function showBusy() {
  if (!state.file && !state.item) showInvitation();
  offerFurther(null);
  title.textContent = "Closest matches";
  byId("lead").hidden = true;
  byId("start").hidden = true;
  byId("error").hidden = true;
  byId("warning").hidden = true;
  grid.setAttribute("aria-busy", "true");
  byId("status").classList.add("busy");
  byId("status").replaceChildren(el("span", {}, "Searching …"));
  if (!grid.children.length) grid.replaceChildren(...placeholders(Math.min(state.k, 20)));
}

function settle() {
  grid.removeAttribute("aria-busy");
  byId("status").classList.remove("busy");
}

function showAnswer(reply) {
  settle();
  grid.replaceChildren(...reply.results.map((item) => card(item, handlers)));
  byId("status").replaceChildren(...statusLine(reply));
  const partial = reply.coverage < 1;
  byId("warning").hidden = !partial && reply.results.length > 0;
  byId("warning").textContent = partial
    ? `Part of the catalogue did not answer in time: these results cover ${Math.floor(reply.coverage * 100)} % of it.`
    : "Nothing found here. Try other verticals or filters, or a larger crop.";
}

function showFurther(reply) {
  const shown = new Set([...grid.children].map(({ dataset }) => dataset.item)); // an approximate index may find one again
  const cards = reply.results.filter((item) => !shown.has(item.item_id)).map((item) => card(item, handlers));
  grid.append(...cards);
  byId("status").replaceChildren(...statusLine(reply, grid.children.length));
  cards[0]?.querySelector(".tile").focus({ preventScroll: true });
}

function showError(problem) {
  settle();
  offerFurther(null);
  grid.replaceChildren();
  byId("status").replaceChildren();
  title.textContent = "That didn't work";
  const passing = !problem.status || problem.status === 429 || problem.status >= 500; // may go through another time
  byId("retry").hidden = !passing;
  byId("error-text").textContent = problem.message;
  byId("error-code").textContent = problem.code ? `(${problem.code})` : "";
  byId("error").hidden = false;
}

function offerStart() {
  const signal = freshSignal();
  settle();
  offerFurther(null);
  grid.replaceChildren();
  byId("status").replaceChildren();
  byId("error").hidden = byId("warning").hidden = true;
  showInvitation();
  byId("lead").hidden = false;
  title.textContent = "Find it by how it looks";
  if (state.index) return showStart(state.index, state, handlers, signal);
}

/* ---- filters, the link, and the rest of the page ---- */

async function followLink() {
  const { item, likes, unlikes, ...options } = readLink();
  Object.assign(state, { file: null, item: null });
  taste.set(likes, unlikes);
  showFilters(options);
  Object.assign(state, readFilters()); // a link may name what this index doesn't have
  byId("details").close();
  const photo = photos[history.state?.photo];
  if (!asks() && !item && !photo) taste.set(); // nothing to be unlike of
  if (item) return searchForItem(item, null, false);
  if (photo) return searchForPhoto(photo);
  byId("item-id").value = "";
  return search();
}

byId("filters").addEventListener("change", () => {
  Object.assign(state, readFilters());
  rewriteLink(state);
  search();
});
byId("by-id").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = byId("item-id").value.trim();
  if (!id) return;
  taste.set();
  searchForItem(id);
});
byId("reset").addEventListener("click", () => {
  crop.reset();
  byId("box").focus();
});
byId("another").addEventListener("click", () => byId("file").click());
byId("clear").addEventListener("click", () => {
  startOver();
  byId("file").focus();
});
byId("retry").addEventListener("click", () => (state.index ? search() : open()));
byId("details-more").addEventListener("click", () => moreLike(byId("details").item));
byId("details-unlike").addEventListener("click", () => {
  byId("details").close();
  taste.add(byId("details").item, false);
});
byId("details").addEventListener("click", (event) => {
  if (event.target === byId("details")) byId("details").close(); // a click beside the dialog
});
byId("home").addEventListener("click", (event) => {
  event.preventDefault();
  startOver();
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  title.focus();
});
watchPhotos(newPhoto);
addEventListener("popstate", followLink);

async function open() {
  byId("error").hidden = true;
  try {
    state.index = await getIndex();
  } catch (problem) {
    return showError(problem);
  }
  offerFilters(state.index);
  const { items, products } = state.index;
  byId("catalogue").textContent = `${products.toLocaleString("en")} products · ${items.toLocaleString("en")} photos`;
  return followLink();
}

open();
