"""JPEG, PNG and WebP files taken apart before anything decodes them: what they declare, and only those parts that make pixels.

Decoders see neither metadata nor later frames nor what follows the image, so none of that can cost time or memory, whatever it
holds: a colour profile that unpacks to gigabytes, an EXIF directory whose entries all name the same megabytes, a million frames.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

MAX_PARTS = 20_000  # segments or chunks of a file; encoders write tens, or one of 8 KiB after another
MARKER = re.compile(rb"\xff+([\x01-\xfe])")
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
JPEG, PNG, WEBP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"
MARKER_AFTER_SCAN = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")  # in coded data ff 00 is a byte, ff d0 to ff d7 are restarts
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2  # JPEG frames that are read: Huffman coded
TABLES, SCAN, END = (0xC4, 0xDB, 0xDD), 0xDA, 0xD9
COLOUR_SEGMENTS = (0xE0, 0xEE)  # JFIF and Adobe: they tell how colours are coded
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG, by its colour type


class Malformed(ValueError):
    """The bytes don't have the structure that their first bytes promise."""


@dataclass(frozen=True)
class Contents:
    """Of one image file. `data`: the file with only the parts that make pixels; `sample_bytes`: of one pixel in the decoder;
    `orientation`: 1 to 8, EXIF's; `scans`: passes over the pixels."""

    format: str
    data: bytes
    width: int
    height: int
    sample_bytes: int
    orientation: int = 1
    scans: int = 1


def contents(data: bytes) -> Contents | None:
    """None if the first bytes are of no format known here. Raises Malformed."""
    read = _reader(data)
    if read is None:
        return None
    try:
        return read(data)
    except (struct.error, IndexError) as error:  # a declared length leads beyond the end
        raise Malformed("a length leads beyond the end") from error


def _reader(data: bytes) -> Callable[[bytes], Contents] | None:
    if data[:3] == JPEG:
        return _jpeg
    if data[:8] == PNG:
        return _png
    return _webp if data[:4] == WEBP and data[8:12] == b"WEBP" else None


def _jpeg(data: bytes) -> Contents:
    """Keeps tables, frame and scans, and the segments that tell how colours are coded."""
    kept, at, scans, parts = [data[:2]], 2, 0, 0
    orientation = 0  # not known yet
    frame: tuple[int, int, int, int] | None = None  # marker, height, width, components
    while found := MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == END:
            kept.append(b"\xff\xd9")
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # these have no length
            continue
        parts += 1
        end = at + struct.unpack_from(">H", data, at)[0]
        if end < at + 2 or end > len(data) or parts > MAX_PARTS:
            raise Malformed(f"a segment leads nowhere, or there are more than {MAX_PARTS:,}")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame is not None or marker not in (*SEQUENTIAL, PROGRESSIVE):
                raise Malformed("only one frame, sequential or progressive and Huffman coded, is read")
            frame = (marker, *struct.unpack_from(">xxxHHB", data, at))
            kept.append(data[found.start() : end])
        elif marker == SCAN:
            if frame is None:
                raise Malformed("a scan comes before its frame")
            scans += 1
            if frame[0] != PROGRESSIVE and data[at + 2] == frame[3]:  # all components: the picture is whole after it
                stop = data.rfind(b"\xff\xd9", end)  # the last end there is: found fast, and the decoder stops at the first
                kept.append(data[found.start() : stop + 2 if stop >= 0 else len(data)])
                break
            following = MARKER_AFTER_SCAN.search(data, end)
            end = following.start() if following else len(data)
            kept.append(data[found.start() : end])
        elif marker in TABLES or marker in COLOUR_SEGMENTS:
            kept.append(data[found.start() : end])
        elif marker == 0xE1 and data[at + 2 : at + 8] == b"Exif\0\0" and not orientation:
            orientation = exif_orientation(data[at + 8 : end])
        at = end
    if frame is None:
        raise Malformed("there is no frame")
    return Contents("JPEG", b"".join(kept), frame[2], frame[1], frame[3], orientation or 1, scans)


def _png(data: bytes) -> Contents:
    """Keeps the chunks that the standard calls critical, and transparency."""
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR" or colour not in CHANNELS:
        raise Malformed("there is no header")
    kept, at, orientation, parts = [data[:8]], 8, 1, 0
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        parts += 1
        if parts > MAX_PARTS:
            raise Malformed(f"there are more than {MAX_PARTS:,} chunks")
        if name in PNG_PIXELS:
            kept.append(data[at:end])
        elif name == b"eXIf":
            orientation = exif_orientation(data[at + 8 : end - 4])
        at = end
        if name == b"IEND":
            break
    return Contents("PNG", b"".join(kept), width, height, max(1, CHANNELS[colour] * depth // 8), orientation)


def _webp(data: bytes) -> Contents:
    """Keeps a still's pixels, or an animation's first frame."""
    kept, at, orientation, parts, size, done = [], 12, 1, 0, None, False
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        body, end = at + 8, at + 8 + length + length % 2
        parts += 1
        if parts > MAX_PARTS:
            raise Malformed(f"there are more than {MAX_PARTS:,} chunks")
        if name == b"EXIF":
            orientation = exif_orientation(data[body : body + length])
        elif name == b"VP8X" and size is None:
            low = struct.unpack_from("<BxxxHBHB", data, body)
            size = (1 + low[1] + (low[2] << 16), 1 + low[3] + (low[4] << 16))
            flags = low[0] & 0x12  # alpha, animation: what else it announces isn't there any more
            kept.append(data[at:body] + bytes([flags]) + data[body + 1 : end])
        elif name in (b"ALPH", b"ANIM", b"ANMF", b"VP8 ", b"VP8L") and not done:
            kept.append(data[at:end])
            done = name not in (b"ALPH", b"ANIM")
            size = size or _bare(name, data, body)
        at = end
        if done and kept[0][:4] != b"VP8X":
            break
    if size is None:
        raise Malformed("there is no image")
    whole = b"WEBP" + b"".join(kept)
    return Contents("WEBP", WEBP + struct.pack("<I", len(whole)) + whole, *size, 4, orientation)


def _bare(name: bytes, data: bytes, at: int) -> tuple[int, int]:
    """(width, height) of a WebP that has no VP8X chunk."""
    if name == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, at + 6)
        return width & 0x3FFF, height & 0x3FFF
    if name != b"VP8L":
        raise Malformed("there is no header")
    bits = struct.unpack_from("<I", data, at + 1)[0]
    return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1


def exif_orientation(exif: bytes) -> int:
    """Orientation of the image, 1 to 8, from a TIFF header and directory; 1 where it is missing, damaged or no such value.

    Reads this one entry: nothing that other entries point to.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None:
            return 1
        directory = struct.unpack_from(f"{order}I", exif, 4)[0]
        entries = struct.unpack_from(f"{order}H", exif, directory)[0]
        for i in range(entries):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", exif, directory + 2 + 12 * i)
            if tag == 0x0112:
                return int(value) if kind == 3 and count == 1 and 1 <= value <= 8 else 1
        return 1
    except struct.error:  # a damaged directory tells none
        return 1
