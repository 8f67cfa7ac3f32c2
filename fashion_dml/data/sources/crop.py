"""A box of an image as part of its `ref`, so that one photo may show several products.

img/WOMEN/Denim/id_00000001/01_1_front.jpg|36,12,220,250      left, top, right, bottom in pixels of the image itself
...|36,12,220,250|256p      in pixels of a copy with the longest side 256, padded to a square, the image in its middle
...|36,12,220,250|300       in pixels of a copy with the longest side 300
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from fashion_dml.data.decode import UnreadableImage
from fashion_dml.data.sources.files import Reader

BAD_BOX = "box outside the image"
TOLERANCE = 0.02
Corners = tuple[float, float, float, float]


def boxed(ref: str, corners: Corners, frame: str = "") -> str:
    """The ref of a box."""
    return "|".join([ref, ",".join(f"{c:g}" for c in corners), *([frame] if frame else [])])


@dataclass(frozen=True)
class Cropped:
    """Reads whole images through `images` and cuts the box out, where a ref has one."""

    images: Reader

    def load(self, ref: str) -> Image.Image:
        ref, _, box = ref.partition("|")
        image = self.images.load(ref)
        if not box:
            return image
        corners, _, frame = box.partition("|")
        left, top, right, bottom = in_pixels([float(c) for c in corners.split(",")], frame, image.width, image.height)
        # Lists round their boxes: a little outside is cut off, more means that box and image don't belong together.
        across, down = (max(1.0, TOLERANCE * n) for n in image.size)
        if left < -across or top < -down or right > image.width + across or bottom > image.height + down:
            raise UnreadableImage(f"the box {corners} leaves the {image.width} x {image.height} image", reason=BAD_BOX)
        box_pixels = (max(0, round(left)), max(0, round(top)), min(image.width, round(right)), min(image.height, round(bottom)))
        if box_pixels[0] >= box_pixels[2] or box_pixels[1] >= box_pixels[3]:
            raise UnreadableImage(f"the box {corners} holds no pixel of the image", reason=BAD_BOX)
        return image.crop(box_pixels)


def in_pixels(corners: list[float], frame: str, width: int, height: int) -> list[float]:
    """Corners in pixels of an image of this size, from those of the copy that `frame` names."""
    if not frame:
        return corners
    side = float(frame.removesuffix("p"))
    scale = max(width, height) / side
    left, top = ((side - n / scale) / 2 if frame.endswith("p") else 0.0 for n in (width, height))
    return [(c - offset) * scale for c, offset in zip(corners, (left, top, left, top), strict=True)]
