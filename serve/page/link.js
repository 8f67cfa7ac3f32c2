// The part of a search that a link can carry: #item=…&like=…&unlike=…&vertical=…&attribute=colour=…&k=…&group=product

const KS = [10, 20, 50, 100, 200];

export function readLink() {
  const params = new URLSearchParams(location.hash.slice(1));
  const k = Number(params.get("k"));
  return {
    item: params.get("item") || null,
    likes: params.getAll("like"),
    unlikes: params.getAll("unlike"),
    verticals: params.getAll("vertical"),
    attributes: Object.fromEntries(params.getAll("attribute").map((one) => [one.split("=", 1)[0], one.slice(one.indexOf("=") + 1)])),
    k: KS.includes(k) ? k : 20,
    group: params.get("group") === "product",
  };
}

function hashOf({ item, likes, unlikes, verticals, attributes, k, group }) {
  const params = new URLSearchParams();
  if (item) params.set("item", item);
  for (const id of likes) params.append("like", id);
  for (const id of unlikes) params.append("unlike", id);
  for (const name of verticals) params.append("vertical", name);
  for (const [column, value] of Object.entries(attributes)) params.append("attribute", `${column}=${value}`);
  if (k !== 20) params.set("k", k);
  if (group) params.set("group", "product");
  return params.size ? `#${params}` : location.pathname;
}

/** A new search is a new step in the history. A photo can't be in the link; its number stays in the step. */
export const writeLink = (state, photo = null) => history.pushState({ photo }, "", hashOf(state));

/** A changed option belongs to the present step. */
export const rewriteLink = (state) => history.replaceState(history.state, "", hashOf(state));
