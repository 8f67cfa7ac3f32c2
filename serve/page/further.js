// "Show more": the next page of the answer that is shown, as of the same state of the catalogue.

import { nextPage } from "./api.js";
import { byId } from "./dom.js";

const place = byId("further");
const button = byId("further-button");
const told = byId("further-error");

let page = null; // {query, options, next, signal, append, again}; null: nothing further

/** Offers the page after a reply; null for none. */
export function offerFurther(offered) {
  page = offered?.next ? offered : null;
  place.hidden = !page;
  told.hidden = true;
  button.textContent = "Show more";
}

async function follow() {
  const asked = page;
  if (!asked || button.ariaBusy === "true") return;
  if (asked.stale) return asked.again();
  button.ariaBusy = "true";
  button.textContent = "Loading …";
  told.hidden = true;
  try {
    const reply = await nextPage(asked.query, asked.options, asked.next, asked.signal);
    if (page !== asked) return;
    asked.append(reply);
    offerFurther({ ...asked, next: reply.next });
  } catch (problem) {
    if (problem.name === "AbortError" || page !== asked) return;
    asked.stale = problem.status === 409; // what the page was part of is gone: only a new search helps
    told.textContent = problem.message;
    told.hidden = false;
    button.textContent = asked.stale ? "Search again" : "Try again";
  } finally {
    button.ariaBusy = "false";
  }
}

button.addEventListener("click", follow);
