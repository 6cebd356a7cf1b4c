"""Images that claim more pixels than are decoded."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from saicinpainting.data.loading import decode, decode_labels
from saicinpainting.io.budgets import BudgetError
from saicinpainting.io.images import decode_image
from saicinpainting.io.pixels import open_image
from saicinpainting.utils import InputError


def png(width: int, height: int, bits: int, colours: int) -> bytes:
    """Its header, and nothing of the pixels it claims."""
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def float_tiff(width: int, height: int) -> bytes:
    tags = {256: width, 257: height, 258: 32, 259: 1, 262: 2, 273: 8, 277: 3, 278: height, 279: 4, 339: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 12) + bytes(4) + struct.pack("<H", len(tags)) + entries + bytes(4)


def tiled_tiff(side: int) -> bytes:
    """Of 16x16 pixels, in one tile."""
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 12) + bytes(4) + struct.pack("<H", len(tags)) + entries + bytes(4)


def rle_bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 2, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1080, 0, 0, 1078) + header + bytes(1024) + b"\0\1"


JPEG = b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00\xff\xd9"


@pytest.mark.parametrize(
    "data",
    [
        *(png(8100, 8000, 8, 2), png(6000, 6000, 16, 6), png(1 << 30, 1, 1, 0), png(1, 1 << 30, 1, 0), JPEG),
        *(tiled_tiff(32_768), rle_bmp(90_000_000, 1)),
        *(float_tiff(20_000, 20_000), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    ],
    ids=["rgb", "16 bits", "wide", "high", "jpeg", "tiles", "rle", "float tiff", "eps"],
)
def test_an_image_of_too_many_pixels_is_refused_by_its_header(data: bytes, monkeypatch: pytest.MonkeyPatch):
    def decodes(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decodes)
    monkeypatch.setattr("cv2.imdecode", decodes)
    for read in (decode_image, decode, decode_labels):
        with pytest.raises(InputError, match=r"^cannot read the (image|labels) a\.png: .*(pixels|no image|identify)"):
            read(data, "a.png")


def test_more_pixels_are_read_where_the_user_allows_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAMA_MAX_PIXELS", "130000000")
    assert open_image(io.BytesIO(png(11_000, 11_000, 8, 2))).size == (11_000, 11_000)
    monkeypatch.setenv("LAMA_MAX_PIXELS", "99")
    with pytest.raises(BudgetError, match=r"10x10 pixels, .*LAMA_MAX_PIXELS"):
        open_image(io.BytesIO(png(10, 10, 8, 2)))


def test_a_jpeg_of_many_scans_is_refused():
    file = io.BytesIO()
    Image.new("L", (2000, 2000), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last, end = data.rfind(b"\xff\xda"), data.rfind(b"\xff\xd9")
    assert decode(data, "a.jpg").pixels.shape[:2] == (2000, 2000)
    for read in (decode_image, decode):
        with pytest.raises(InputError, match=r"^cannot read the image a\.jpg: 2000x2000 pixels in \d+ scans"):
            read(data[:last] + data[last:end] * 400 + data[end:], "a.jpg")
