"""Image files made to hurt whoever decodes them, and unusual ones that are nobody's fault. All are generated; none is stored."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

BLOCK = 1 << 20  # bytes
USED, DAMAGED, LARGE, COMPLEX = "", "bad_image", "image_too_large", "image_too_complex"


@dataclass(frozen=True)
class HostileImage:
    """`code`: of the refusal; USED: it is an image, which the service may use."""

    name: str
    make: Callable[[], bytes]
    code: str


def encoded(form: str, size: tuple[int, int] = (48, 64), mode: str = "RGB", **options: Any) -> bytes:
    """A picture of grey tones in a file of PIL's format of that name."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int = 8, colour: int = 2, pixels: bytes | None = None, extra: bytes = b"") -> bytes:
    """A PNG of zeros; `pixels`: what to put in place of them; `extra`: chunks before them."""
    row = 1 + (width * {0: 1, 2: 3, 4: 2, 6: 4}[colour] * depth + 7) // 8
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zeros(row * height) if pixels is None else pixels
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """So many zero bytes, packed a thousandfold: a zlib stream whose blocks are one block again and again."""
    whole, rest = divmod(count, BLOCK)
    checksum = ((count % 65521) << 16) | 1  # Adler-32 of zeros
    return b"\x78\xda" + _flushed(BLOCK) * whole + _flushed(rest) + b"\x03\0" + struct.pack(">I", checksum)


def _flushed(count: int) -> bytes:
    """A deflate block of zeros that refers to nothing before it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(bytes(count)) + packer.flush(zlib.Z_FULL_FLUSH)


def segment(marker: int, data: bytes) -> bytes:
    """Of a JPEG."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def with_segments(segments: bytes) -> bytes:
    whole = encoded("JPEG")
    return whole[:2] + segments + whole[2:]


def resized_jpeg(width: int, height: int, **options: Any) -> bytes:
    """A JPEG whose frame declares another size than it holds."""
    whole = encoded("JPEG", **options)
    at = whole.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0") + 5
    return whole[:at] + struct.pack(">HH", height, width) + whole[at + 4 :]


def many_scans(count: int, width: int = 48, height: int = 64) -> bytes:
    """A progressive JPEG whose last scan, a refinement, comes again and again."""
    whole = resized_jpeg(width, height, progressive=True)
    return whole[:-2] + whole[whole.rfind(b"\xff\xda") : -2] * count + whole[-2:]


def riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def webp_canvas(width: int, height: int) -> bytes:
    """A WebP of 30 bytes that declares a canvas."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return riff(b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + size)


def with_webp_chunk(name: bytes, data: bytes) -> bytes:
    plain = encoded("WEBP")[12:]
    flags = {b"EXIF": 8, b"ICCP": 32, b"XMP ": 4}[name]
    head = b"VP8X" + struct.pack("<I", 10) + bytes((flags, 0, 0, 0)) + struct.pack("<HBHB", 47, 0, 63, 0)
    return riff(head + plain + name + struct.pack("<I", len(data)) + data)


def animation(form: str, frames: int) -> bytes:
    pictures = [Image.new("RGB", (48, 64), (i % 256, i // 256, 0)) for i in range(frames)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, form, save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


def exif(orientation: int, kind: int = 3) -> bytes:
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, kind, 1, orientation, 0) + bytes(4)


def overlapping_exif(size: int) -> bytes:
    """A directory of 4,000 entries, each of which names the same `size` bytes."""
    count = 4000
    entries = b"".join(struct.pack("<HHII", 0x8000 + i, 7, size - 100, 0) for i in range(count))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries).ljust(size, b"\0")


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "a")
    return buffer.getvalue()


def halves() -> Iterator[HostileImage]:
    forms: dict[str, tuple[str, dict[str, Any]]] = {
        "jpeg": ("JPEG", {}), "progressive jpeg": ("JPEG", {"progressive": True}), "png": ("PNG", {}),
        "webp": ("WEBP", {}), "lossless webp": ("WEBP", {"lossless": True}),
    }  # fmt: skip
    for name, (form, options) in forms.items():
        for share in (0.02, 0.5, 0.9):
            yield HostileImage(f"{name}, {share:.0%} of it", partial(_part, share, form, **options), DAMAGED)


def _part(share: float, form: str, **options: Any) -> bytes:
    whole = encoded(form, (300, 400), **options)
    return whole[: int(len(whole) * share)]


def other_formats() -> Iterator[HostileImage]:
    for form in ("GIF", "TIFF", "BMP", "ICO", "EPS", "PDF", "AVIF", "JPEG2000", "TGA", "PPM"):
        yield HostileImage(f"{form} named .jpg", partial(encoded, form), DAMAGED)
    texts = {
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(64), "HTML": b"<html><script>alert(1)</script></html>",
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.", "ZIP": zipped(), "one byte": b"\xff", "JPEG's first bytes": b"\xff\xd8\xff",
        "PNG's first bytes": b"\x89PNG\r\n\x1a\n", "WebP's first bytes": b"RIFF\0\0\0\0WEBP",
        "ImageMagick script": b"push graphic-context\nfill 'url(https://127.0.0.1/a.jpg|ls)'\npop graphic-context",
    }  # fmt: skip
    for name, data in texts.items():
        yield HostileImage(f"{name} named .jpg", partial(bytes, data), DAMAGED)


IMAGES: list[HostileImage] = [
    HostileImage("png of 100,000 x 100,000 declared", lambda: png(100_000, 100_000, pixels=zeros(100)), LARGE),
    HostileImage("png of 2**31 - 1 squared declared", lambda: png(2**31 - 1, 2**31 - 1, pixels=zeros(100)), LARGE),
    HostileImage("png of 49 megapixels, whole", lambda: png(7000, 7000, 8, 0), LARGE),
    HostileImage("png of 39 megapixels, 8 bytes each", lambda: png(6200, 6200, 16, 6), LARGE),
    HostileImage("png of 1 x 40,000,000", lambda: png(1, 40_000_000, 8, 0), LARGE),
    HostileImage("png of 40,000,000 x 1", lambda: png(40_000_000, 1, 8, 0), LARGE),
    HostileImage("jpeg of 65,535 x 65,535 declared", lambda: resized_jpeg(65_535, 65_535), LARGE),
    HostileImage("webp of 16,777,216 x 255 declared", lambda: webp_canvas(1 << 24, 255), LARGE),
    HostileImage("webp of 16,000 x 16,000", lambda: webp_canvas(16_000, 16_000), LARGE),
    HostileImage("png of no width", lambda: png(0, 9), DAMAGED),
    HostileImage("jpeg of no height", lambda: resized_jpeg(48, 0), DAMAGED),
    HostileImage("png, pixels of another size", lambda: png(6000, 6000, pixels=zeros(100)), DAMAGED),
    HostileImage("jpeg of 1,000 scans", lambda: many_scans(1000), COMPLEX),
    HostileImage("jpeg of 15,000 scans", lambda: many_scans(15_000), COMPLEX),
    HostileImage("jpeg of 25 scans of 36 megapixels", lambda: many_scans(15, 6000, 6000), COMPLEX),
    HostileImage("jpeg of 3,000,000 segments", lambda: with_segments(b"\xff\xe1\0\x02" * 3_000_000), DAMAGED),
    HostileImage("jpeg with a segment beyond its end", lambda: with_segments(b"\xff\xe1\xff\xff")[:500], DAMAGED),
    HostileImage("jpeg with two frames", lambda: with_segments(segment(0xC0, b"\x08\0\x10\0\x10\x01\x01\x11\0")), DAMAGED),
    HostileImage("jpeg with arithmetic coding", lambda: encoded("JPEG").replace(b"\xff\xc0", b"\xff\xc9"), DAMAGED),
    HostileImage("jpeg of 5 MB of ff 00", lambda: with_segments(b"\xff\0" * 2_500_000), USED),
    HostileImage("png of 300,000 text chunks", lambda: png(9, 9, extra=chunk(b"tEXt", b"a\0b") * 300_000), DAMAGED),
    HostileImage("png of 300,000 empty IDAT", lambda: png(9, 9, extra=chunk(b"IDAT", b"") * 300_000), DAMAGED),
    HostileImage("png, zTXt of 1 GB", lambda: png(9, 9, extra=chunk(b"zTXt", b"a\0\0" + zeros(1 << 30))), USED),
    HostileImage("png, iTXt of 1 GB", lambda: png(9, 9, extra=chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(1 << 30))), USED),
    HostileImage("png, iCCP of 1 GB", lambda: png(9, 9, extra=chunk(b"iCCP", b"a\0\0" + zeros(1 << 30))), USED),
    HostileImage("png, bad checksum", lambda: encoded("PNG").replace(b"IDAT", b"IDAT\0", 1), DAMAGED),
    HostileImage("png, EXIF naming 11 MB 4,000 times", lambda: png(9, 9, extra=chunk(b"eXIf", overlapping_exif(11 << 20))), USED),
    HostileImage("webp, EXIF naming 11 MB 4,000 times", lambda: with_webp_chunk(b"EXIF", overlapping_exif(11 << 20)), USED),
    HostileImage("jpeg, 150 EXIF segments", lambda: with_segments(segment(0xE1, b"Exif\0\0" + overlapping_exif(65_000)) * 150), USED),
    HostileImage("webp, colour profile of 11 MB", lambda: with_webp_chunk(b"ICCP", bytes(11 << 20)), USED),
    HostileImage("jpeg, colour profile of 255 segments", lambda: with_segments(
        b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes((i, 255)) + bytes(40_000)) for i in range(1, 256))), USED),
    HostileImage("jpeg, EXIF orientation 9", lambda: with_segments(segment(0xE1, exif(9))), USED),
    HostileImage("jpeg, EXIF orientation 0", lambda: with_segments(segment(0xE1, exif(0))), USED),
    HostileImage("jpeg, EXIF orientation of a wrong type", lambda: with_segments(segment(0xE1, exif(6, kind=12))), USED),
    HostileImage("jpeg, EXIF directory out of bounds", lambda: with_segments(segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")), USED),
    HostileImage("webp animation of 600 frames", lambda: animation("WEBP", 600), USED),
    HostileImage("png animation of 600 frames", lambda: animation("PNG", 600), USED),
    HostileImage("gif animation of 600 frames", lambda: animation("GIF", 600), DAMAGED),
    HostileImage("jpeg with HTML behind it", lambda: encoded("JPEG") + b"<script>alert(1)</script>", USED),
    HostileImage("jpeg with a ZIP behind it", lambda: encoded("JPEG") + zipped(), USED),
    HostileImage("png with PHP in a comment", lambda: png(9, 9, extra=chunk(b"tEXt", b"Comment\0<?php system('ls'); ?>")), USED),
    HostileImage("cmyk jpeg", lambda: encoded("JPEG", mode="CMYK"), USED),
    HostileImage("grey jpeg", lambda: encoded("JPEG", mode="L"), USED),
    HostileImage("16-bit grey png", lambda: png(9, 9, 16, 0), USED),
    HostileImage("16-bit colour png", lambda: png(9, 9, 16, 6), USED),
    HostileImage("1-bit png", lambda: encoded("PNG", mode="1"), USED),
    HostileImage("palette png", lambda: encoded("PNG", mode="P", transparency=0), USED),
    HostileImage("palette png without a palette", lambda: png(9, 9).replace(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0)), chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 3, 0, 0, 0))), USED),
    HostileImage("png of one pixel", lambda: png(1, 1), USED),
    HostileImage("png of 60,000 x 1", lambda: png(60_000, 1), USED),
    *halves(),
    *other_formats(),
]  # fmt: skip
