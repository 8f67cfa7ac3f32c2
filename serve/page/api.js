// The HTTP API, and nothing else. Every call takes an AbortSignal; failures arrive as ApiError.

export class ApiError extends Error {
  constructor(message, code = "", status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

async function call(path, options) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new ApiError("The search service can't be reached just now.", "unreachable");
  }
  const body = await reply.json().catch((problem) => {
    if (problem.name === "AbortError") throw problem;
    return null;
  });
  if (reply.ok && body) return body;
  const error = body?.error ?? {};
  let message = error.message ?? `The search service answered with status ${reply.status}.`;
  const limit = error.limit;
  if (["number", "string"].includes(typeof limit) && !message.includes(limit)) message += ` (limit: ${limit})`;
  throw new ApiError(message, error.code, reply.status);
}

const postJson = (body, signal) =>
  call("/v1/search", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

const jsonOptions = ({ k, verticals, attributes = {}, group, likes = [], unlikes = [] }) => ({
  k,
  attributes: Object.fromEntries(Object.entries(attributes).map(([column, value]) => [column, [value]])),
  ...(verticals.length ? { verticals } : {}),
  ...(group ? { group_by: "product" } : {}),
  ...(likes.length ? { like: likes } : {}),
  ...(unlikes.length ? { unlike: unlikes } : {}),
});

export const getIndex = (signal) => call("/v1/index", { signal });
export const getItem = (id, signal) => call(`/v1/items/${encodeURIComponent(id)}`, { signal });
export const imageUrl = (item) => item.image_url || `/v1/items/${encodeURIComponent(item.item_id)}/image`;
/** What a search by an item asks with; null: by the items liked alone. */
export const itemQuery = (id) => (id ? { item_id: id, exclude_self: true } : {});
export const searchItem = (id, options, signal) => postJson({ ...itemQuery(id), ...jsonOptions(options) }, signal);
/** `query` is what the first page was asked with, `next` what its reply says. */
export const nextPage = (query, options, next, signal) => postJson({ ...query, ...jsonOptions(options), ...next }, signal);
export const searchVector = (vector, options, signal) => postJson({ vector, ...jsonOptions(options) }, signal);

/** `crop` is [x0, y0, x1, y1] in fractions of the upright photo, or null for the whole of it. The reply holds the photo's vector: the
 * next page asks by that, and the photo isn't sent again. */
export function searchPhoto(file, crop, { k, verticals, attributes, group, likes, unlikes }, signal) {
  const params = new URLSearchParams({ k, with_vector: true });
  for (const id of likes) params.append("like", id);
  for (const id of unlikes) params.append("unlike", id);
  for (const name of verticals) params.append("vertical", name);
  for (const [column, value] of Object.entries(attributes)) params.append("attribute", `${column}=${value}`);
  if (group) params.set("group_by", "product");
  if (crop) params.set("crop", crop.map((x) => x.toFixed(4)).join(","));
  const form = new FormData();
  form.append("image", file, file.name || "photo");
  return call(`/v1/search?${params}`, { method: "POST", body: form, signal });
}
