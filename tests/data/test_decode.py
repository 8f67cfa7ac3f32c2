"""Bytes to pixels: letterbox, what PIL and the fast path give, and what is refused."""

from __future__ import annotations

import random
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from drawn import encoded, photo
from PIL import Image

from fashion_dml.data.decode import MAX_PIXELS, TURNS, UnreadableImage, decode, letterbox, open_image, to_rgb

ORIENTATION = 0x0112
HM_MINI = Path(__file__).parents[3] / "shared" / "data" / "hm_mini.tar"


def flat(colour: tuple[int, ...], mode: str = "RGB", size: tuple[int, int] = (30, 40)) -> Image.Image:
    return Image.new(mode, size, colour)


@pytest.mark.parametrize(
    ("size", "box", "top", "left", "height", "width"),
    [
        ((30, 40), (80, 60), 0, 0, 80, 60),  # fits, scaled up
        ((30, 40), (40, 50), 0, 10, 40, 30),  # margins at the sides
        ((40, 20), (40, 40), 10, 0, 20, 40),  # margins above and below
        ((31, 10), (11, 31), 0, 0, 10, 31),  # an odd margin: the pixel more is below
        ((500, 1), (20, 20), 9, 0, 1, 20),  # never thinner than a pixel
    ],
)
def test_letterbox_shows_the_whole_image_centred_on_white(
    size: tuple[int, int], box: tuple[int, int], top: int, left: int, height: int, width: int
) -> None:
    pixels = letterbox(flat((200, 30, 90), size=size), *box)
    assert (pixels.shape, pixels.dtype) == ((*box, 3), np.uint8)
    inside = np.zeros(box, bool)
    inside[top : top + height, left : left + width] = True
    assert (pixels[inside] == (200, 30, 90)).all()
    assert (pixels[~inside] == 255).all()


def test_an_image_of_the_models_size_is_not_touched() -> None:
    image = photo(1)
    assert np.array_equal(letterbox(image, image.height, image.width), np.asarray(image))


def corners() -> np.ndarray:
    """40 x 30 with four colours, so that every turn and mirror shows."""
    pixels = np.zeros((40, 30, 3), np.uint8)
    pixels[:20, :15], pixels[:20, 15:], pixels[20:, :15], pixels[20:, 15:] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 0),
    )
    return pixels


STORED = {  # how a camera that notes the orientation stores the upright picture, by the EXIF standard
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, -1),
}  # fmt: skip


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_photos_are_upright_by_their_exif_orientation(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}[form]
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](corners())))
    data = encoded(stored, form, exif=exif, **options)
    for shown in (open_image(data), to_rgb(data)):
        assert shown.size == (30, 40)
        assert np.abs(np.asarray(shown).astype(int) - corners()).max() <= 40 * (form == "JPEG")
    assert set(TURNS) == set(STORED) - {1}


def test_orientation_counts_wherever_exif_stands_in_the_header() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(Image.fromarray(np.rot90(corners()).copy()), exif=exif)
    colour_profile = b"\xff\xe2" + struct.pack(">H", 2 + 3000) + b"ICC_PROFILE\0\1\1" + bytes(3000 - 14)
    assert to_rgb(data[:2] + colour_profile + data[2:]).size == (30, 40)


def test_transparent_parts_become_white() -> None:
    clear = np.zeros((40, 30, 4), np.uint8)
    clear[:20] = (10, 20, 200, 255)
    clear[20:30] = (0, 0, 0, 128)
    rgba = Image.fromarray(clear)
    for data in (encoded(rgba, "PNG"), encoded(rgba, "WEBP", lossless=True)):
        pixels = np.asarray(open_image(data))
        assert (pixels[:20] == (10, 20, 200)).all()
        assert (np.abs(pixels[20:30].astype(int) - 127) <= 1).all()
        assert (pixels[30:] == 255).all()
    palette = flat((0, 0, 0)).convert("P")
    assert (np.asarray(open_image(encoded(palette, "PNG", transparency=palette.getpixel((0, 0))))) == 255).all()
    assert (np.asarray(open_image(encoded(flat((40, 0), "LA"), "PNG"))) == 255).all()
    assert (np.asarray(open_image(encoded(flat((7, 8, 9)), "PNG", transparency=(7, 8, 9)))) == 255).all()


def test_greyscale_cmyk_and_sixteen_bit_images_look_as_they_should() -> None:
    ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
    for image in (
        to_rgb(encoded(Image.fromarray(ramp), quality=100)),
        open_image(encoded(Image.fromarray(ramp), "PNG")),
        open_image(encoded(Image.fromarray(ramp.astype(np.uint16) * 257), "PNG")),
    ):
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image).astype(int) - ramp[..., None]).max() <= 2
    cmyk = encoded(flat((0, 255, 255, 0), "CMYK"), quality=100)
    assert np.abs(np.asarray(to_rgb(cmyk)).astype(int) - (255, 0, 0)).max() <= 6


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"quality": 30}], ids=str)
def test_the_fast_path_shows_what_pil_shows(options: dict[str, object]) -> None:
    for seed in range(8):
        data = encoded(photo(seed, 97 + seed, 61), **options)
        assert np.abs(np.asarray(to_rgb(data)).astype(int) - np.asarray(open_image(data))).max() <= 2


@pytest.mark.skipif(not HM_MINI.exists(), reason="../shared/data/hm_mini.tar is missing")
def test_the_fast_path_shows_what_pil_shows_of_real_photos() -> None:
    with tarfile.open(HM_MINI) as archive:
        names = [m for m in archive.getmembers() if m.name.endswith(".jpg")][::101][:20]
        for member in names:
            data = archive.extractfile(member).read()  # type: ignore[union-attr]
            assert np.abs(np.asarray(to_rgb(data)).astype(int) - np.asarray(open_image(data))).max() <= 2
    assert names


def png_header(width: int, height: int) -> bytes:
    """A PNG that only says how large it is."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + struct.pack(">I", 9)
        + b"IDAT"
    )


def jpeg_header(width: int, height: int) -> bytes:
    """A JPEG whose frame header was enlarged; there are not nearly so many pixels behind it."""
    data = encoded(photo(0))
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize("make", [png_header, jpeg_header])
def test_too_many_pixels_are_refused_by_the_header(make: object) -> None:
    for width, height in ((8000, 5001), (60_000, 60_000)):
        with pytest.raises(UnreadableImage) as caught:
            to_rgb(make(width, height))  # type: ignore[operator]
        if width == 8000:  # far above, PIL itself refuses it as a bomb
            assert str(caught.value) == f"the image has 8000 x 5001 pixels, more than {MAX_PIXELS:,}"


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8\xff", b"no image at all", b"<svg/>", encoded(photo(0), "GIF"), encoded(photo(0), "BMP"), encoded(photo(0), "TIFF")],
    ids=["empty", "three bytes", "text", "svg", "gif", "bmp", "tiff"],
)  # fmt: skip
def test_what_is_no_accepted_image_is_refused(data: bytes) -> None:
    for read in (open_image, to_rgb):
        with pytest.raises(UnreadableImage, match="not a readable JPEG, PNG, WEBP image"):
            read(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_images_are_refused(form: str, share: float) -> None:
    data = encoded(photo(3, 200, 150), form)
    with pytest.raises(UnreadableImage):
        decode(data[: int(len(data) * share)], 40, 30)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL's, of damaged EXIF
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_bytes_give_an_image_or_a_refusal_and_nothing_else(form: str) -> None:
    random_ = random.Random(form)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(photo(4), form, exif=exif)
    refused = 0
    for _ in range(300):
        bad = bytearray(data)
        for _ in range(random_.choice((1, 4, 16))):
            bad[random_.randrange(len(bad))] = random_.randrange(256)
        try:
            assert decode(bytes(bad), 32, 24).shape == (32, 24, 3)
        except UnreadableImage:
            refused += 1
    assert refused > 0
