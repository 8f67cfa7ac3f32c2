"""The small picture of an item that result pages show."""

from __future__ import annotations

import io

from PIL import Image

from fashion_dml.data.decode import to_rgb

QUALITY = 85


def thumbnail(data: bytes, width: int, height: int, side: int) -> bytes:
    """A JPEG whose longest side is at most `side` pixels; a JPEG of width x height that is small enough is kept as it is."""
    return data if max(width, height) <= side else jpeg(to_rgb(data), side)


def jpeg(image: Image.Image, side: int) -> bytes:
    """The RGB image as a JPEG whose longest side is at most `side` pixels."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
