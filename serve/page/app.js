// The search page: holds what is searched for, runs the search, and shows the answer.

import { getIndex, getItem, imageUrl, searchItem, searchPhoto } from "./api.js";
import { CropBox } from "./crop.js";
import { byId, debounce, el, words } from "./dom.js";
import { readLink, rewriteLink, writeLink } from "./link.js";
import { watchPhotos } from "./photo.js";
import { card, openDetails, placeholders, statusLine, titleOf } from "./results.js";
import { showStart } from "./start.js";

const state = { file: null, item: null, verticals: [], attributes: {}, k: 20, group: false, index: null };
const SELECTS = 4; // columns to filter by; more would hide the answer
const photos = []; // those searched for since the page was opened, with their crop: Back returns to them
let running = new AbortController();

const grid = byId("grid");
const title = byId("results-title");
const crop = new CropBox(byId("frame"), byId("box"), () => {
  photos[history.state.photo].crop = crop.value;
  showCropState();
  searchSoon();
});
const searchSoon = debounce(() => search(), 300);
const handlers = { onOpen: openDetails, onMore: (item) => moreLike(item), onShuffle: () => offerStart() };

/* ---- the search ---- */

function freshSignal() {
  searchSoon.cancel();
  running.abort();
  running = new AbortController();
  return running.signal;
}

async function search() {
  const signal = freshSignal();
  if (!state.file && !state.item) return offerStart();
  showBusy();
  try {
    const reply = state.file
      ? await searchPhoto(state.file, crop.value, state, signal)
      : await searchItem(state.item, state, signal);
    showAnswer(reply);
  } catch (problem) {
    if (problem.name !== "AbortError") showError(problem);
  }
}

function newPhoto(file) {
  photos.push({ file, crop: null });
  state.item = null;
  writeLink(state, photos.length - 1);
  return searchForPhoto(photos.at(-1));
}

function searchForPhoto(photo) {
  state.file = photo.file;
  state.item = null;
  byId("item-id").value = "";
  crop.set(photo.crop);
  showPhoto(URL.createObjectURL(photo.file), true);
  return search();
}

function moreLike(item) {
  byId("details").close();
  searchForItem(item.item_id, item);
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
  byId("item-id").value = "";
  writeLink(state);
  search();
}

/* ---- the query ---- */

function showPhoto(url, croppable) {
  const image = byId("preview");
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  byId("unreadable").hidden = true;
  byId("frame").hidden = false;
  byId("frame").classList.toggle("fixed", !croppable);
  byId("box").hidden = !croppable;
  image.src = url;
  image.alt = croppable ? "Your photo" : "The item searched for";
  byId("query-title").textContent = croppable ? "Your photo" : "More like";
  byId("drop").hidden = true;
  byId("photo").hidden = false;
  showCropState();
}

function showItem(item) {
  showPhoto(imageUrl(item), false);
  byId("caption").textContent = `${titleOf(item)} · ${item.product_id}`;
}

function showCropState() {
  const cropped = Boolean(state.file && crop.value);
  byId("reset").hidden = !cropped;
  if (!state.file) return;
  byId("caption").textContent = cropped ? "Searching inside the box" : "Drag the corners to the piece you mean";
}

byId("preview").addEventListener("load", ({ target }) => {
  byId("frame").style.setProperty("--ratio", String(target.naturalWidth / target.naturalHeight));
});
byId("preview").addEventListener("error", () => {
  byId("frame").hidden = true;
  byId("unreadable").hidden = false;
  byId("caption").textContent = state.file?.name ?? "";
});

/* ---- the answer ---- */

function showBusy() {
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

function showError(problem) {
  settle();
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
  grid.replaceChildren();
  byId("status").replaceChildren();
  byId("error").hidden = byId("warning").hidden = true;
  byId("drop").hidden = false;
  byId("photo").hidden = true;
  byId("query-title").textContent = "Your photo";
  byId("lead").hidden = false;
  title.textContent = "Find it by how it looks";
  if (state.index) return showStart(state.index, state, handlers, signal);
}

/* ---- filters, the link, and the rest of the page ---- */

function showChips() {
  const chips = state.index.verticals.map(({ name, products }) => {
    const input = el("input", { type: "checkbox", value: name, checked: state.verticals.includes(name) });
    return el("label", { className: "chip", title: `${products} products` }, input, el("span", {}, words(name)));
  });
  byId("chips").append(...chips);
  byId("chips").hidden = chips.length < 2;
  const { items, products } = state.index;
  byId("catalogue").textContent = `${products.toLocaleString("en")} products · ${items.toLocaleString("en")} photos`;
}

/** One list a column: its values, or any of them. */
function showLooks() {
  const columns = Object.entries(state.index.attributes).filter(([, values]) => values.length > 1).slice(0, SELECTS);
  byId("looks").append(...columns.map(([column, values]) => {
    const options = values.map((value) => el("option", { value }, words(value)));
    const select = el("select", { data: { column } }, el("option", { value: "" }, "Any"), ...options);
    return el("label", { className: "count" }, el("span", {}, words(column)), select);
  }));
  byId("looks").hidden = !columns.length;
}

const looks = () => [...document.querySelectorAll("#looks select")];

function readFilters() {
  state.attributes = Object.fromEntries(looks().filter(({ value }) => value).map(({ dataset, value }) => [dataset.column, value]));
  state.verticals = [...document.querySelectorAll("#chips input:checked")].map((input) => input.value);
  state.k = Number(byId("k").value);
  state.group = byId("group").checked;
}

function showFilters() {
  for (const input of document.querySelectorAll("#chips input")) input.checked = state.verticals.includes(input.value);
  for (const select of looks()) select.value = state.attributes[select.dataset.column] ?? "";
  byId("k").value = String(state.k);
  byId("group").checked = state.group;
}

async function followLink() {
  const { item, verticals, attributes, ...options } = readLink();
  const known = state.index.verticals.map(({ name }) => name);
  Object.assign(state, options, { file: null, item: null, verticals: verticals.filter((name) => known.includes(name)) });
  const offered = (column, value) => looks().some(({ dataset }) => dataset.column === column) && state.index.attributes[column].includes(value);
  state.attributes = Object.fromEntries(Object.entries(attributes).filter(([column, value]) => offered(column, value)));
  showFilters();
  byId("details").close();
  const photo = photos[history.state?.photo];
  if (item) return searchForItem(item, null, false);
  if (photo) return searchForPhoto(photo);
  byId("item-id").value = "";
  return search();
}

byId("filters").addEventListener("change", () => {
  readFilters();
  rewriteLink(state);
  search();
});
byId("by-id").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = byId("item-id").value.trim();
  if (id) searchForItem(id);
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
  showChips();
  showLooks();
  return followLink();
}

open();
