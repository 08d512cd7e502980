"""Files that a page open to strangers is sent: odd, damaged and malicious ones, each with what it should get."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tifffile
from PIL import Image

from benchmark.synthetic import draw_part

ORIENTATION = 0x0112


@dataclass(frozen=True)
class HostileFile:
    """A file as a visitor sends it.

    Attributes:
        kind: What it is, in words.
        name: The name that it is sent under.
        make: Gives its bytes.
        answered: Whether it is a picture like any other, to be answered with a score; otherwise with a sentence.
    """

    kind: str
    name: str
    make: Callable[[], bytes]
    answered: bool = False


def part() -> Image.Image:
    """A good part that the embedded carpet detector has not seen."""
    return Image.fromarray(draw_part("carpet", 500).rgb)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pictures() -> Iterator[HostileFile]:
    """What is put into the box for a picture."""
    yield HostileFile("16-bit PNG", "deep.png", _sixteen_bits, answered=True)
    yield HostileFile("CMYK JPEG", "cmyk.jpg", lambda: encoded(part().convert("CMYK"), "JPEG"), answered=True)
    yield HostileFile("palette PNG", "palette.png", lambda: encoded(part().convert("P")), answered=True)
    yield HostileFile("PNG with alpha", "alpha.png", _transparent, answered=True)
    yield HostileFile("grey PNG", "grey.png", lambda: encoded(part().convert("L")), answered=True)
    yield HostileFile("EXIF-rotated JPEG", "turned.jpg", _turned, answered=True)
    yield HostileFile("JPEG named .png", "wrong.png", lambda: encoded(part(), "JPEG"), answered=True)
    yield HostileFile("name with markup", MARKUP_NAME, lambda: encoded(part()), answered=True)
    yield HostileFile("truncated JPEG", "cut.jpg", lambda: encoded(part(), "JPEG")[:4000])
    yield HostileFile("truncated PNG", "cut.png", lambda: encoded(part())[:20000])
    yield HostileFile("empty file", "empty.png", lambda: b"")
    yield HostileFile("text named .png", "text.png", lambda: b"not a picture\n")
    yield HostileFile("bomb: PNG header of 60000 x 60000", "header.png", lambda: png_header(60000, 60000))
    yield HostileFile("bomb: 144 million pixels in 18 kB", "bomb.png", _bomb)
    yield HostileFile("bomb: 64 MiB of PNG text", "text_bomb.png", _text_bomb)
    yield HostileFile("SVG", "drawing.svg", lambda: SVG)
    yield HostileFile("SVG named .png", "drawing.png", lambda: SVG)
    yield HostileFile("EPS", "page.eps", lambda: EPS)
    yield HostileFile("animated GIF", "frames.gif", lambda: _frames("GIF"))
    yield HostileFile("TIFF of two pages", "pages.tiff", lambda: _frames("TIFF"))
    yield HostileFile("animated PNG", "frames.png", lambda: _frames("PNG"))
    yield HostileFile("animated WebP", "frames.webp", lambda: _frames("WEBP"))
    yield HostileFile("1 x 1 picture", "dot.png", lambda: encoded(Image.new("RGB", (1, 1))))
    yield HostileFile("20000 x 1 picture", "line.png", lambda: encoded(Image.new("RGB", (20000, 1))))
    yield HostileFile("point cloud (xyz TIFF)", "xyz.tiff", point_cloud)
    yield HostileFile("zip named .png", "zip.png", lambda: zipped({"a.png": encoded(part())}))


# In HTML it would run a script; the slash of a closing tag cannot be in a name.
MARKUP_NAME = "<img src=x onerror=window.injected=1>.png"

SVG = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY secret SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><script>window.injected = 1</script>
<text>&secret;</text></svg>
"""

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 64 64
(/etc/passwd) (r) file 100 string readstring pop show
%%EOF
"""


def point_cloud() -> bytes:
    """An organised point cloud as MVTec 3D-AD keeps them."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, draw_part("tire", 500).xyz, photometric="rgb")
    return stream.getvalue()


@dataclass(frozen=True)
class HostileZip:
    """An archive for the batch, and how many of its members are pictures that are to be answered with a score."""

    kind: str
    make: Callable[[], bytes]
    answered: int = 0


# Must not come to be, wherever a member's own path leads.
ESCAPED = "escaped_from_the_archive.png"


def archives() -> Iterator[HostileZip]:
    """What is put into the batch."""
    yield HostileZip("zip with ../", lambda: zipped({f"{'../' * 12}{ESCAPED}": encoded(part()), **_good()}), 2)
    yield HostileZip("zip with an absolute path", lambda: zipped({f"/{ESCAPED}": encoded(part()), **_good()}), 2)
    yield HostileZip("zip with a link to /etc/passwd", lambda: _linked("/etc/passwd"), 1)
    yield HostileZip("zip with a picture and a text", lambda: zipped({"read.txt": b"me", **_good()}), 1)
    yield HostileZip("zip with a damaged picture", lambda: zipped({"bad.png": encoded(part())[:9000], **_good()}), 1)
    yield HostileZip("zip bomb: 256 MiB of zeros named .png", _zeros)
    yield HostileZip("zip bomb: a member that lies about its size", _liar)
    yield HostileZip("zip of 20000 members", lambda: zipped({f"{i}.png": b"" for i in range(20000)}))
    yield HostileZip("zip in a zip", lambda: zipped({"inner.zip": zipped(_good())}))
    yield HostileZip("zip with a password", _locked)
    yield HostileZip("zip cut short", lambda: zipped(_good())[:5000])
    yield HostileZip("text named .zip", lambda: b"not an archive\n")
    yield HostileZip("empty zip", lambda: zipped({}))


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def png_header(width: int, height: int, *more: bytes) -> bytes:
    """A PNG that declares a size and holds next to nothing but the chunks `more`."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(64)))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *more, pixels, png_chunk(b"IEND", b"")))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _good() -> dict[str, bytes]:
    return {"good.png": encoded(part())}


def _sixteen_bits() -> bytes:
    return encoded(Image.fromarray(np.asarray(part().convert("L")).astype(np.uint16) * 257))


def _transparent() -> bytes:
    image = part().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return encoded(image)


def _turned() -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return encoded(part().crop((0, 0, 320, 240)), "JPEG", exif=exif)


def _bomb() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return encoded(Image.new("1", (12000, 12000)))


def _text_bomb() -> bytes:
    text = b"Comment\0\0" + zlib.compress(bytes(2**26))
    return png_header(64, 64, *[png_chunk(b"zTXt", text)] * 2)


def _frames(kind: str) -> bytes:
    return encoded(part(), kind, save_all=True, append_images=[part().transpose(Image.Transpose.ROTATE_90)])


def _linked(target: str) -> bytes:
    stream = io.BytesIO(zipped(_good()))
    with zipfile.ZipFile(stream, "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, target)
    return stream.getvalue()


def _zeros() -> bytes:
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("zeros.png", "w") as member,
    ):
        for _ in range(256):
            member.write(bytes(2**20))
    return stream.getvalue()


def _liar() -> bytes:
    """The sizes in both headers say 100 bytes; the data goes on for 64 MiB."""
    size = 2**26
    data = bytearray(zipped({"zeros.png": bytes(size)}))
    assert data.count(struct.pack("<I", size)) == 2
    return bytes(data.replace(struct.pack("<I", size), struct.pack("<I", 100)))


def _locked() -> bytes:
    """The flags in both headers say that the member is encrypted."""
    data = bytearray(zipped(_good()))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    return bytes(data)
