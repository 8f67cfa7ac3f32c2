"""Files taken apart: the same pixels without what surrounds them, and what they declare."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from drawn import encoded, photo
from PIL import Image

from fashion_dml.data.containers import MAX_PARTS, Malformed, contents, exif_orientation
from fashion_dml.data.decode import MAX_SCANS, UnreadableImage, decode, to_rgb
from jobs.benchmarks.hostile_images import IMAGES, chunk, many_scans, overlapping_exif, png, segment, with_webp_chunk
from serve.errors import Refusal
from serve.query import pixels


def alpha() -> Image.Image:
    image = photo(2).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def animated(form: str) -> bytes:
    buffer = io.BytesIO()
    photo(1).save(buffer, form, save_all=True, append_images=[photo(n) for n in range(2, 6)])
    return buffer.getvalue()


FILES = {
    "jpeg": lambda: encoded(photo(1)), "progressive": lambda: encoded(photo(1), progressive=True), "grey": lambda: encoded(photo(1).convert("L")),
    "cmyk": lambda: encoded(photo(1).convert("CMYK")), "restarts": lambda: encoded(photo(1), restart_marker_blocks=1),
    "rgb jpeg": lambda: encoded(photo(1), keep_rgb=True), "profile": lambda: encoded(photo(1), icc_profile=bytes(200_000), comment=b"a" * 9000),
    "mpo": lambda: animated("MPO"), "png": lambda: encoded(photo(1), "PNG"), "png alpha": lambda: encoded(alpha(), "PNG"),
    "palette": lambda: encoded(photo(1).quantize(16), "PNG", transparency=3), "1 bit": lambda: encoded(photo(1).convert("1"), "PNG"),
    "apng": lambda: animated("PNG"), "webp": lambda: encoded(photo(1), "WEBP"), "lossless": lambda: encoded(photo(1), "WEBP", lossless=True),
    "webp alpha": lambda: encoded(alpha(), "WEBP"), "webp all": lambda: encoded(alpha(), "WEBP", icc_profile=bytes(999), exif=b"Exif\0\0II*\0", xmp=b"<x/>"),
    "webp animation": lambda: animated("WEBP"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_the_parts_that_are_kept_make_the_same_pixels(kind: str) -> None:
    data = FILES[kind]()
    inside = contents(data)
    assert inside is not None
    whole, kept = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(inside.data))
    assert (inside.width, inside.height) == whole.size == kept.size
    assert whole.mode == kept.mode
    assert np.array_equal(np.asarray(whole), np.asarray(kept))
    assert len(inside.data) <= len(data)
    assert not {"icc_profile", "exif", "xmp", "comment"} & set(kept.info)


def test_what_follows_the_image_and_surrounds_it_is_gone() -> None:
    jpeg = encoded(photo(1))
    for data in (
        jpeg + bytes(1 << 20),
        jpeg[:2] + segment(0xE1, bytes(60_000)) * 9 + jpeg[2:],
        jpeg[:2] + segment(0xFE, b"a") + jpeg[2:],
    ):
        inside = contents(data)
        assert inside is not None
        assert inside.data == jpeg
    still, moving = contents(encoded(photo(1), "WEBP")), contents(animated("WEBP"))
    assert still is not None
    assert moving is not None
    assert len(moving.data) < 2 * len(still.data)
    small = contents(with_webp_chunk(b"EXIF", bytes(1 << 20)))
    assert small is not None
    assert len(small.data) < 10_000


def test_scans_are_counted_as_the_decoder_meets_them() -> None:
    for data, scans in (
        (encoded(photo(1)), 1), (encoded(photo(1), progressive=True), 10), (many_scans(30), 40),
        (encoded(photo(1))[:2] + segment(0xE1, b"\xff\xda" * 99) + encoded(photo(1))[2:] + b"\xff\xda" * 99, 1),
    ):  # fmt: skip
        inside = contents(data)
        assert inside is not None
        assert inside.scans == scans
    assert to_rgb(many_scans(MAX_SCANS - 10)).size == (48, 64)
    with pytest.raises(UnreadableImage, match=f"has {MAX_SCANS + 1} scans, more than {MAX_SCANS}") as caught:
        to_rgb(many_scans(MAX_SCANS - 9))
    assert (caught.value.reason, caught.value.limit) == ("too many scans", MAX_SCANS)


def test_files_of_too_many_parts_are_malformed() -> None:
    assert contents(png(2, 2, extra=chunk(b"tEXt", b"a\0b") * (MAX_PARTS - 3))) is not None
    for data in (
        png(2, 2, extra=chunk(b"tEXt", b"a\0b") * MAX_PARTS),
        encoded(photo(1)).replace(b"\xff\xdb", segment(0xE5, b"") * MAX_PARTS + b"\xff\xdb", 1),
    ):
        with pytest.raises(Malformed):
            contents(data)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("named", [True, False])
def test_orientation_is_read_from_its_entry_alone(order: str, named: bool) -> None:
    start = b"Exif\0\0" * named + (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    for kind, count, value, told in ((3, 1, 6, 6), (3, 1, 8, 8), (3, 1, 9, 1), (3, 1, 0, 1), (4, 1, 6, 1), (3, 2, 6, 1)):
        other = struct.pack(f"{order}HHII", 0x010F, 2, 0xFFFFFFFF, 0xFFFFFFFF)
        entry = struct.pack(f"{order}HHIHH", 0x0112, kind, count, value, 0)
        assert exif_orientation(start + struct.pack(f"{order}H", 2) + other + entry) == told
    assert (
        exif_orientation(start)
        == exif_orientation(b"")
        == exif_orientation(b"II")
        == exif_orientation(overlapping_exif(99_999))
        == 1
    )


def test_other_bytes_are_left_to_others() -> None:
    assert contents(b"") is contents(b"GIF89a") is contents(encoded(photo(1), "GIF")) is None


@pytest.mark.security
@pytest.mark.parametrize("image", IMAGES, ids=lambda i: i.name)
def test_hostile_images_are_refused_by_name_or_used(image) -> None:
    data = image.make()
    if not image.code:
        assert pixels(data, None, 32, 24).shape == (32, 24, 3)
        assert decode(data, 32, 24).dtype == np.uint8
        return
    with pytest.raises(Refusal) as caught:
        pixels(data, None, 32, 24)
    assert caught.value.code == image.code
    assert (caught.value.limit is None) == (image.code == "bad_image")
