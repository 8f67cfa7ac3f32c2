"""Encoded bytes to pixels, the same for training, embedding and the service.

An image is scaled to fit the model's input and centred on white (letterbox): nothing is cut off, nothing is
distorted, and product photos mostly have white ground anyway.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from fashion_dml.data.containers import Contents, Malformed, contents

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 40_000_000
MAX_SIDE = 65_535  # of a JPEG; resizing holds two weights a pixel of a side
MAX_SAMPLES = 4 * MAX_PIXELS  # bytes of the pixels as the file codes them
MAX_SCANS = 32  # of a JPEG: encoders write up to about 12, and each costs a pass over all pixels
MAX_SCANNED = 10 * MAX_PIXELS  # pixels of all scans together; 10 is what encoders write
TOO_LARGE, TOO_MANY_SCANS = "too many pixels", "too many scans"
GROUND = 255
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What makes an image of each EXIF orientation upright."""


class UnreadableImage(ValueError):
    """The bytes are no image of the accepted formats, are damaged, or exceed a limit.

    `reason` is the same for all images of one kind of damage: under it they are counted. `limit`: the one that was exceeded.
    """

    def __init__(self, message: str, reason: str = "damaged image", limit: int | None = None) -> None:
        super().__init__(message)
        self.reason, self.limit = reason, limit

    def __reduce__(
        self,
    ) -> tuple[type[UnreadableImage], tuple[str, str, int | None]]:  # else they stay behind between processes
        return type(self), (str(self), self.reason, self.limit)


def open_image(data: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """An RGB image from bytes of one of the formats, upright by its EXIF orientation; transparent parts become white.

    Raises UnreadableImage; what the header declares is checked before any pixel is decoded.
    """
    inside = _examined(data, formats)
    try:
        image: Image.Image = Image.open(io.BytesIO(inside.data if inside else data), formats=formats)
        _check(image.width, image.height)
        orientation = inside.orientation if inside else image.getexif().get(0x0112, 1)
        image.load()
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:  # PIL's own limit, which is far above
        raise UnreadableImage(f"the image has more than {MAX_PIXELS:,} pixels", TOO_LARGE, MAX_PIXELS) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, RuntimeError, MemoryError) as error:
        message = f"the bytes are not a readable {', '.join(formats)} image"
        if isinstance(error, UnidentifiedImageError) and inside is None:
            raise UnreadableImage(message, reason="not an image" if data else "empty file") from error
        raise UnreadableImage(message) from error
    return _rgb(_upright(image, orientation))


def _examined(data: bytes, formats: tuple[str, ...]) -> Contents | None:
    """What a file of a known format declares, within the limits; None for other bytes. Raises UnreadableImage."""
    try:
        inside = contents(data)
    except Malformed as error:
        raise UnreadableImage(f"the bytes are not a readable {', '.join(formats)} image") from error
    if inside is None or inside.format not in formats:
        return None
    _check(inside.width, inside.height)
    size = inside.width * inside.height * inside.sample_bytes
    if size > MAX_SAMPLES:
        raise UnreadableImage(f"the image's pixels take {size:,} bytes, more than {MAX_SAMPLES:,}", TOO_LARGE, MAX_SAMPLES)
    if inside.scans > MAX_SCANS:
        raise UnreadableImage(f"the JPEG has {inside.scans:,} scans, more than {MAX_SCANS}", TOO_MANY_SCANS, MAX_SCANS)
    if inside.scans > 1 and inside.scans * inside.width * inside.height > MAX_SCANNED:
        raise UnreadableImage(
            f"the JPEG has {inside.scans} scans of {inside.width} x {inside.height} pixels, more than {MAX_SCANNED:,} together",
            TOO_MANY_SCANS, MAX_SCANNED,
        )  # fmt: skip
    return inside


def _check(width: int, height: int) -> None:
    """Raises UnreadableImage for a picture too large to be decoded."""
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"the image has {width} x {height} pixels, more than {MAX_PIXELS:,}", TOO_LARGE, MAX_PIXELS)
    if max(width, height) > MAX_SIDE:
        raise UnreadableImage(f"the image has {width} x {height} pixels, a side more than {MAX_SIDE:,}", TOO_LARGE, MAX_SIDE)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _rgb(image: Image.Image) -> Image.Image:
    """What is transparent becomes GROUND; at most one copy of the image is made beside it."""
    if image.mode.startswith("I;16"):  # 16-bit grey, which convert() would clip to white
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        ground = Image.new("RGB", rgba.size, (GROUND, GROUND, GROUND))
        ground.paste(rgba, mask=rgba)
        return ground
    return image if image.mode == "RGB" else image.convert("RGB")


def to_rgb(data: bytes) -> Image.Image:
    """Like open_image, by the fast path where the bytes are a JPEG in grey or YCbCr (as every stored image is)."""
    if data[:3] == b"\xff\xd8\xff" and (inside := _examined(data, FORMATS)) is not None:
        try:
            _, _, space, _ = simplejpeg.decode_jpeg_header(inside.data)
            if space in ("YCbCr", "Gray"):
                pixels = simplejpeg.decode_jpeg(inside.data, "RGB", strict=True)
                return _upright(Image.fromarray(pixels), inside.orientation)
        except ValueError:
            return open_image(data)  # says what is wrong, or reads what only PIL can
    return open_image(data)


def letterbox(image: Image.Image, height: int, width: int) -> np.ndarray:
    """The whole image centred on white: uint8 [height, width, 3]."""
    scale = min(height / image.height, width / image.width)
    h, w = max(1, round(image.height * scale)), max(1, round(image.width * scale))
    if (w, h) != image.size:
        image = image.resize((w, h), Image.Resampling.BILINEAR)
    pixels = np.full((height, width, 3), GROUND, np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    pixels[top : top + h, left : left + w] = np.asarray(image)
    return pixels


def decode(data: bytes, height: int, width: int) -> np.ndarray:
    """Encoded bytes to the model's input, uint8 [height, width, 3]. Raises UnreadableImage."""
    return letterbox(to_rgb(data), height, width)
