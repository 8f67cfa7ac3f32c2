// The ways a photo comes in: picked, dropped anywhere on the page, or pasted.

import { byId } from "./dom.js";

const LARGE_BYTES = 1_500_000; // above this a photo is scaled down before it is sent: the model sees far fewer pixels
const LONG_SIDE = 1600;

/** Phone photos weigh megabytes and are sent again for each crop; one that can't be scaled here goes as it is. */
async function shrink(file) {
  if (file.size <= LARGE_BYTES) return file;
  try {
    const bitmap = await createImageBitmap(file); // upright: EXIF orientation is applied
    const scale = Math.min(1, LONG_SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(bitmap.width * scale);
    canvas.height = Math.round(bitmap.height * scale);
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
    return blob ? new File([blob], "photo.jpg", { type: "image/jpeg" }) : file;
  } catch {
    return file;
  }
}

export function watchPhotos(onPhoto) {
  const veil = byId("dropping");
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const take = async (files) => {
    const chosen = [...(files ?? [])];
    const file = chosen.find((one) => one.type.startsWith("image/")) ?? chosen[0];
    if (file) onPhoto(await shrink(file));
  };

  for (const input of [byId("file"), byId("camera")]) {
    input.addEventListener("change", async () => {
      await take(input.files);
      input.value = ""; // the same file can be chosen again
    });
  }
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return; // text stays with the text field
    event.preventDefault();
    take(event.clipboardData.files);
  });
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    veil.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) veil.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    veil.hidden = true;
    if (!carriesFiles(event)) return;
    event.preventDefault();
    take(event.dataTransfer.files);
  });
}
