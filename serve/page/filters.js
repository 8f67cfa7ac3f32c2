// The filters above the results: verticals, looks, how many, and one result a product.

import { byId, el, words } from "./dom.js";

const SELECTS = 4; // columns to filter by; more would hide the answer

/** Puts up what this index can be filtered by; nothing is chosen yet. */
export function offerFilters({ verticals, attributes }) {
  const chips = verticals.map(({ name, products }) =>
    el("label", { className: "chip", title: `${products} products` }, el("input", { type: "checkbox", value: name }), el("span", {}, words(name))));
  byId("chips").append(...chips);
  byId("chips").hidden = chips.length < 2;
  const columns = Object.entries(attributes).filter(([, values]) => values.length > 1).slice(0, SELECTS);
  byId("looks").append(...columns.map(([column, values]) => {
    const options = values.map((value) => el("option", { value }, words(value)));
    const select = el("select", { data: { column } }, el("option", { value: "" }, "Any"), ...options);
    return el("label", { className: "count" }, el("span", {}, words(column)), select);
  }));
  byId("looks").hidden = !columns.length;
}

const looks = () => [...document.querySelectorAll("#looks select")];
const chips = () => [...document.querySelectorAll("#chips input")];

/** What is chosen: one value of a column, or any of them. */
export const readFilters = () => ({
  attributes: Object.fromEntries(looks().filter(({ value }) => value).map(({ dataset, value }) => [dataset.column, value])),
  verticals: chips().filter(({ checked }) => checked).map(({ value }) => value),
  k: Number(byId("k").value),
  group: byId("group").checked,
});

/** Shows these as chosen; what isn't offered stays unchosen. */
export function showFilters({ verticals, attributes, k, group }) {
  for (const input of chips()) input.checked = verticals.includes(input.value);
  for (const select of looks()) {
    const wanted = attributes[select.dataset.column] ?? "";
    select.value = [...select.options].some(({ value }) => value === wanted) ? wanted : "";
  }
  byId("k").value = String(k);
  byId("group").checked = group;
}
