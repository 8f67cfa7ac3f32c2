"""Encoded bytes to pixels, the same for training, embedding and the service.

An image is scaled to fit the model's input and centred on white (letterbox): nothing is cut off, nothing is
distorted, and product photos mostly have white ground anyway.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 40_000_000
TOO_LARGE = "too many pixels"
GROUND = 255
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What makes an image of each EXIF orientation upright."""


class UnreadableImage(ValueError):
    """The bytes are no image of the accepted formats, are damaged, or are larger than MAX_PIXELS.

    `reason` is the same for all images of one kind of damage: under it they are counted.
    """

    def __init__(self, message: str, reason: str = "damaged image") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[str, str]]:  # else the reason stays behind between processes
        return type(self), (str(self), self.reason)


def open_image(data: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """An RGB image from bytes of one of the formats, upright by its EXIF orientation; transparent parts become white.

    Raises UnreadableImage; the header is checked against MAX_PIXELS before any pixel is decoded.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=formats)
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableImage(
                f"the image has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}", reason=TOO_LARGE
            )
        orientation = image.getexif().get(0x0112, 1)
        image.load()
    except UnreadableImage:
        raise
    except Image.DecompressionBombError as error:  # PIL's own limit, which is far above
        raise UnreadableImage(f"the image has more than {MAX_PIXELS:,} pixels", reason=TOO_LARGE) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        message = f"the bytes are not a readable {', '.join(formats)} image"
        if isinstance(error, UnidentifiedImageError):
            raise UnreadableImage(message, reason="not an image" if data else "empty file") from error
        raise UnreadableImage(message) from error
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    if image.mode.startswith("I;16"):  # 16-bit grey, which convert() would clip to white
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (GROUND, GROUND, GROUND, 255))
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return image.convert("RGB")


def to_rgb(data: bytes) -> Image.Image:
    """Like open_image, by the fast path where the bytes are a plain JPEG (as every stored image is)."""
    if data[:3] == b"\xff\xd8\xff" and data.find(b"Exif\0", 0, 1 << 16) < 0:
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(data)
            if space in ("YCbCr", "Gray") and width * height <= MAX_PIXELS:
                return Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", strict=True))
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
