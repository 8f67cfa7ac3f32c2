// Draws results: cards, placeholders while a search runs, and the details of one item.

import { imageUrl } from "./api.js";
import { byId, el, words } from "./dom.js";

export const titleOf = (item) => {
  const { name, colour, category } = item.attributes ?? {};
  return name || [colour, category].filter(Boolean).join(" ") || words(item.vertical ?? "") || item.item_id;
};

const photo = (item) => {
  const image = el("img", { loading: "lazy", decoding: "async", alt: "", width: 200, height: 300, src: imageUrl(item) });
  image.addEventListener("error", () => image.parentElement?.classList.add("broken"), { once: true });
  return image;
};

function scoreBar(score) {
  const fill = el("i");
  fill.style.width = `${Math.round(Math.min(1, Math.max(0, score)) * 100)}%`;
  return el("p", { className: "score", title: "Similarity" },
    el("span", { className: "bar", ariaHidden: "true" }, fill),
    el("span", { className: "sr" }, "Similarity "),
    el("span", { className: "number" }, score.toFixed(2)));
}

const sign = (path) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(svg.namespaceURI, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
};

/** Buttons that collect the item: more like it, less like it. */
const tastes = (item, { onLike, onUnlike }) => {
  const button = (className, label, path, action) =>
    el("button", { type: "button", className: `taste ${className}`, title: label, ariaLabel: `${label}: ${titleOf(item)}, ${item.product_id}`, on: { click: () => action(item) } }, sign(path));
  return el("div", { className: "tastes" },
    button("plus", "More like this, too", "M10 4v12M4 10h12", onLike),
    onUnlike ? button("minus", "Less like this", "M4 10h12", onUnlike) : null);
};

export function card(item, handlers) {
  const { onOpen, onMore } = handlers;
  const title = titleOf(item);
  return el("li", { className: "card", data: { item: item.item_id, product: item.product_id, vertical: item.vertical } },
    el("button", { type: "button", className: "tile", ariaLabel: `Details of ${title}, ${item.product_id}`, on: { click: () => onOpen(item) } }, photo(item)),
    el("p", { className: "name" }, title),
    el("p", { className: "sub" }, el("span", {}, words(item.vertical)), el("span", { className: "product" }, item.product_id)),
    typeof item.score === "number" ? scoreBar(item.score) : null,
    el("div", { className: "actions" },
      el("button", { type: "button", className: "more", ariaLabel: `More like ${title}, ${item.product_id}`, on: { click: () => onMore(item) } }, "More like this"),
      tastes(item, handlers)));
}

export const placeholders = (count) =>
  Array.from({ length: count }, () =>
    el("li", { className: "card ghost", ariaHidden: "true" }, el("div", { className: "tile" }), el("p", { className: "name" }), el("p", { className: "sub" })));

/** Shows one item in the dialog. Its buttons are wired once, in app.js, through `dialog.item`; `asked`: there is a search to change. */
export function openDetails(item, asked) {
  byId("details-unlike").hidden = !asked;
  const dialog = byId("details");
  dialog.item = item;
  byId("details-image").src = imageUrl(item);
  byId("details-vertical").textContent = words(item.vertical);
  byId("details-title").textContent = titleOf(item);
  byId("details-score").replaceChildren(...(typeof item.score === "number" ? [scoreBar(item.score)] : []));
  const facts = Object.entries(item.attributes ?? {}).filter(([name, value]) => name !== "name" && value !== null && value !== "");
  facts.push(["Product", item.product_id], ["Item", item.item_id]);
  byId("details-list").replaceChildren(...facts.flatMap(([name, value]) => [el("dt", {}, words(name)), el("dd", {}, String(value))]));
  dialog.showModal();
}

/** "20 results, best first · 34 ms · model · index" */
export function statusLine(reply, count = reply.results.length) {
  const total = reply.milliseconds?.total;
  const parts = [
    `${count} ${count === 1 ? "result" : "results"}, best first`,
    typeof total === "number" ? `${total < 10 ? total.toFixed(1) : Math.round(total)} ms` : null,
    `coverage ${Math.floor(reply.coverage * 100)} %`,
    `model ${reply.model}`,
    `index ${reply.index}`,
  ];
  return parts.filter(Boolean).map((text) => el("span", {}, text));
}
