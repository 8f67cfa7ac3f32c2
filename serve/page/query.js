// What is searched for, as the panel beside the results shows it: a photo with its crop box, an item, or the invitation to choose one.

import { imageUrl } from "./api.js";
import { byId } from "./dom.js";
import { titleOf } from "./results.js";

const image = byId("preview");
let named = ""; // of a photo that can't be shown

export function showFile(file) {
  named = file.name;
  show(URL.createObjectURL(file), true);
}

export function showItem(item) {
  show(imageUrl(item), false);
  byId("caption").textContent = `${titleOf(item)} · ${item.product_id}`;
}

export function showInvitation() {
  byId("drop").hidden = false;
  byId("photo").hidden = true;
  byId("query-title").textContent = "Your photo";
}

/** `cropped` of a photo. */
export function showCrop(cropped) {
  byId("reset").hidden = !cropped;
  byId("caption").textContent = cropped ? "Searching inside the box" : "Drag the corners to the piece you mean";
}

function show(url, croppable) {
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  byId("unreadable").hidden = true;
  byId("frame").hidden = false;
  byId("frame").classList.toggle("fixed", !croppable);
  byId("box").hidden = !croppable;
  byId("reset").hidden = true;
  image.src = url;
  image.alt = croppable ? "Your photo" : "The item searched for";
  byId("query-title").textContent = croppable ? "Your photo" : "More like";
  byId("drop").hidden = true;
  byId("photo").hidden = false;
}

image.addEventListener("load", () => {
  byId("frame").style.setProperty("--ratio", String(image.naturalWidth / image.naturalHeight));
});
image.addEventListener("error", () => {
  byId("frame").hidden = true;
  byId("unreadable").hidden = false;
  byId("caption").textContent = image.src.startsWith("blob:") ? named : "";
});
