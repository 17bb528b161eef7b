"""Reading of images as phones, cameras and other programs write them: pixels count, the rest of a file does not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from lumina_core.config import Config
from lumina_image.image_io import (
    ImageError,
    ImageField,
    MaskField,
    parse_image,
    parse_mask,
    read_image,
    read_image_size,
)
from lumina_image.request import TextToImageRequest

PIXELS = 10**7


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(pixels: np.ndarray, before=(), after=()) -> bytes:
    """A PNG of gray (H, W), RGB or RGBA, 8 or 16 bits, with further chunks before and after the pixels."""
    kind = 0 if pixels.ndim == 2 else {3: 2, 4: 6}[pixels.shape[-1]]
    rows = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8 * pixels.dtype.itemsize, kind, 0, 0, 0)
    chunks = [chunk(b"IHDR", head), *before, chunk(b"IDAT", zlib.compress(rows)), *after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def card(colour=(255, 0, 0), width=32, height=32) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def encode(image: Image.Image, form: str, **how) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **how)
    return stream.getvalue()


def odd_exif() -> bytes:
    """EXIF with orientation 6 and resolutions of a wrong type."""
    entries = ((0x112, 3, 1, 6), (0x11A, 7, 4, 0x41414141), (0x11B, 2, 4, 0x41414141))
    body = struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + body + bytes(4)


def test_an_image_is_turned_whatever_the_other_tags_hold():
    data = encode(Image.fromarray(card(width=40, height=30)), "JPEG", exif=odd_exif())
    assert read_image(data, PIXELS).size == read_image_size(data, PIXELS) == (30, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_path_bytes_and_a_pillow_image_are_upright_alike(tmp_path, orientation):
    pixels = np.arange(32 * 16 * 3, dtype=np.uint8).reshape(16, 32, 3)
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / "phone.png"
    path.write_bytes(encode(Image.fromarray(pixels), "PNG", exif=exif))
    expected = np.asarray(upright(pixels, orientation))
    for value in (path, str(path), path.read_bytes(), Image.open(path)):
        assert np.array_equal(np.asarray(parse_image(value).image), expected)
        assert parse_mask(value).image.size == expected.shape[1::-1]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_from_the_header_is_that_of_the_upright_image(form, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encode(Image.fromarray(card(width=40, height=30)), form, exif=exif)
    assert read_image_size(data, PIXELS) == read_image(data, PIXELS).size


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels upright, by the definition of the eight orientations (EXIF 2.32, 4.6.4)."""
    rows_first = orientation >= 5
    turned = pixels.transpose(1, 0, 2) if rows_first else pixels
    flips = {1: "", 2: "x", 3: "xy", 4: "y", 5: "", 6: "x", 7: "xy", 8: "y"}[orientation]
    turned = turned[:, ::-1] if "x" in flips else turned
    return turned[::-1] if "y" in flips else turned


# a profile stands before the pixels, texts on both sides
@pytest.mark.parametrize(
    ("name", "place"),
    [(b"zTXt", "before"), (b"zTXt", "after"), (b"iTXt", "before"), (b"iTXt", "after"), (b"iCCP", "before")],
)
def test_large_text_in_a_png_does_not_matter(name, place):
    large = zlib.compress(b"x" * 1_200_000)
    body = {b"zTXt": b"workflow\0\0", b"iTXt": b"workflow\0\1\0\0\0", b"iCCP": b"press\0\0"}[name] + large
    data = png(card(), **{place: [chunk(name, body)]})
    assert np.array_equal(np.asarray(read_image(data, PIXELS)), card())
    assert read_image_size(data, PIXELS) == (32, 32)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_jpeg_without_the_mark_of_its_end_is_read(progressive, lost):
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "JPEG", progressive=progressive, quality=90)
    whole = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(read_image(data[:-lost], PIXELS)), whole)
    for cut in (len(data) // 2, len(data) - 40):
        with pytest.raises(ImageError, match="truncated"):
            read_image(data[:cut], PIXELS)


def profile(red, green, blue) -> bytes:
    """A small ICC profile with these primaries (XYZ of D50) and a gamma of 2.2."""

    def fixed(values):
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    white = (0.9642, 1.0, 0.8249)
    tags = [(b"desc", b"desc\0\0\0\0" + struct.pack(">I", 5) + b"made\0" + b"\0" * 78)]
    tags += [(b"cprt", b"text\0\0\0\0made\0")]
    tags += [
        (name, b"XYZ \0\0\0\0" + fixed(values))
        for name, values in zip((b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ"), (white, red, green, blue), strict=True)
    ]
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    at, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags:
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    rest = struct.pack(">I", len(tags)) + table + body
    kind = b"\0\0\0\0\x02\x10\0\0mntrRGB XYZ " + struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    head = struct.pack(">I", 128 + len(rest)) + kind
    return (head + b"acsp" + b"\0" * 28 + fixed(white)).ljust(128, b"\0") + rest


P3 = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841))
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
SWAPPED = (SRGB[1], SRGB[0], SRGB[2])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_colours_are_those_that_a_viewer_shows(form):
    how = {"quality": 100, "subsampling": 0} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    for colour, primaries, expected in (
        ((255, 0, 0), SWAPPED, (0, 255, 0)),
        ((200, 60, 60), P3, (219, 37, 49)),
        ((200, 60, 60), SRGB, (200, 60, 60)),
    ):
        data = encode(Image.fromarray(card(colour)), form, icc_profile=profile(*primaries), **how)
        assert read_image(data, PIXELS).getpixel((9, 9)) == pytest.approx(expected, abs=6 if form == "JPEG" else 3)


def test_profiles_hold_for_transparent_and_indexed_pixels_and_damaged_ones_do_not_matter():
    swapped = profile(*SWAPPED)
    clear = np.dstack([card(), np.where(np.arange(32) < 16, 255, 0)[None].repeat(32, 0)]).astype(np.uint8)
    image = read_image(encode(Image.fromarray(clear), "PNG", icc_profile=swapped), PIXELS)
    assert image.getpixel((2, 2)) == pytest.approx((0, 255, 0), abs=3) and image.getpixel((30, 2)) == (255, 255, 255)
    indexed = Image.fromarray(card()).convert("P")
    assert read_image(encode(indexed, "PNG", icc_profile=swapped), PIXELS).getpixel((2, 2))[1] > 250
    for broken in (swapped[:150], b"\0" * 200, b"x"):
        assert read_image(encode(Image.fromarray(card()), "PNG", icc_profile=broken), PIXELS).getpixel((2, 2))[0] == 255
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(read_image(encode(Image.fromarray(noise), "PNG", icc_profile=own), PIXELS)), noise)


def hole(size=64):
    inside = np.zeros((size, size), bool)
    inside[24:40, 24:40] = True
    return inside


@pytest.mark.parametrize("high", [1, 255, 1023, 4095, 65535])
def test_a_mask_of_16_bits_is_white_at_its_largest_value(high):
    mask = parse_mask(png(np.where(hole(), high, 0).astype(np.uint16))).image
    assert np.array_equal(np.asarray(mask.convert("L")) >= 128, hole())
    mask = parse_mask(np.where(hole(), 1, 0).astype(np.uint8)).image
    assert np.array_equal(np.asarray(mask.convert("L")) >= 128, hole())


@pytest.mark.parametrize("high", [255, 1023, 4095, 16383, 65535])
def test_gray_of_16_bits_is_scaled_by_the_bits_that_it_uses(high):
    ramp = np.linspace(0, high, 64).astype(np.uint16)[None].repeat(8, 0)
    pixels = np.asarray(read_image(png(ramp), PIXELS))
    assert pixels.min() == 0 and pixels.max() == 255 and (np.diff(pixels[0, :, 0].astype(int)) >= 0).all()


def test_colours_of_16_bits_that_use_the_lowest_only_are_refused():
    full, low = np.full((8, 8, 3), 60000, np.uint16), np.full((8, 8, 3), 4095, np.uint16)
    assert read_image(png(full), PIXELS).getpixel((0, 0)) == (234, 234, 234)
    with pytest.raises(ImageError, match="only the lowest are used"):
        read_image(png(low), PIXELS)
    assert read_image(png(low * 0), PIXELS).getpixel((0, 0)) == (0, 0, 0)


def test_a_mask_with_transparent_pixels_is_refused_with_advice():
    erased = np.dstack([card((90, 80, 70), 64, 64), np.where(hole(), 0, 255)]).astype(np.uint8)
    strokes = np.dstack([card((255,) * 3, 64, 64), np.where(hole(), 255, 0)]).astype(np.uint8)
    for pixels in (erased, strokes):
        for value in (png(pixels), Image.fromarray(pixels)):
            with pytest.raises(ValueError, match="flatten it"):
                parse_mask(value)
    opaque = np.dstack([np.where(hole(), 255, 0)] * 3 + [np.full((64, 64), 255)]).astype(np.uint8)
    assert np.array_equal(np.asarray(parse_mask(png(opaque)).image.convert("L")) > 127, hole())


def test_a_pillow_image_of_a_cut_file_is_refused_like_its_path(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "JPEG")
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    for value in (tmp_path / "half.jpg", data[: len(data) // 2], Image.open(tmp_path / "half.jpg")):
        for parse in (parse_image, parse_mask):
            with pytest.raises(ValueError, match="truncated"):
                parse(value)


def test_a_name_that_is_no_utf8_is_printable_in_the_metadata(tmp_path):
    path = tmp_path / "caf\udce9.png"
    path.write_bytes(png(card()))
    request = TextToImageRequest.read({"prompt": "x", "init_image": str(path)}, "test")
    request.model_dump_json().encode("utf-8")
    assert parse_image(path).name == "caf\ufffd.png"


def test_a_leading_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").write_bytes(png(card()))

    class Both(Config):
        image: ImageField
        mask: MaskField

    assert Both.read({"image": "~/a.png", "mask": "~/a.png"}, "test").image.image.size == (32, 32)
