"""Files that a page open to strangers is sent: odd, damaged and malicious ones, each with what it should get."""

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import tifffile
from PIL import Image

from benchmark.synthetic import draw_part

# In HTML it would run a script; the slash of a closing tag cannot be in a name.
MARKUP_NAME = "<img src=x onerror=window.injected=1>.png"
# Must not come to be, wherever a member's own path leads.
ESCAPED = "escaped_from_the_archive.png"

SVG = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY secret SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><script>window.injected = 1</script>
<text>&secret;</text></svg>
"""
EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 64 64
(/etc/passwd) (r) file 100 string readstring pop show
%%EOF
"""


def part() -> Image.Image:
    """A good part that the embedded carpet detector has not seen."""
    return Image.fromarray(draw_part("carpet", 500).rgb)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def pictures() -> Iterator[tuple[str, Callable[[], bytes], bool]]:
    """For the box for a picture: a name, what makes the bytes, and whether it is to be answered with a score."""
    for name, make in {
        "16 bits.png": lambda: encoded(Image.fromarray(np.asarray(part().convert("L")).astype(np.uint16) * 257)),
        "cmyk.jpg": lambda: encoded(part().convert("CMYK"), "JPEG"),
        "palette.png": lambda: encoded(part().convert("P")),
        "alpha.png": _transparent,
        "grey.png": lambda: encoded(part().convert("L")),
        "turned by exif.jpg": _turned,
        "a jpeg.png": lambda: encoded(part(), "JPEG"),
        MARKUP_NAME: lambda: encoded(part()),
    }.items():
        yield name, make, True
    for name, make in {
        "cut short.jpg": lambda: encoded(part(), "JPEG")[:4000],
        "cut short.png": lambda: encoded(part())[:20000],
        "empty.png": lambda: b"",
        "text.png": lambda: b"not a picture\n",
        "header of 60000 x 60000.png": lambda: _png(60000),
        "144 million pixels in 18 kB.png": _bomb,
        "64 MiB of text.png": lambda: _png(64, [_png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26)))] * 2),
        "drawing.svg": lambda: SVG,
        "drawing.png": lambda: SVG,
        "page.eps": lambda: EPS,
        "frames.gif": lambda: _frames("GIF"),
        "pages.tiff": lambda: _frames("TIFF"),
        "frames.png": lambda: _frames("PNG"),
        "frames.webp": lambda: _frames("WEBP"),
        "1 x 1.png": lambda: encoded(Image.new("RGB", (1, 1))),
        "20000 x 1.png": lambda: encoded(Image.new("RGB", (20000, 1))),
        "point cloud.tiff": point_cloud,
        "zip.png": lambda: zipped({"a.png": encoded(part())}),
    }.items():
        yield name, make, False


def archives() -> Iterator[tuple[str, Callable[[], bytes], int]]:
    """For the batch: what it is, what makes the bytes, and how many members are to be answered with a score."""
    good, many = {"good.png": encoded(part())}, {f"{i}.png": b"" for i in range(20000)}
    yield "../", lambda: zipped({f"{'../' * 12}{ESCAPED}": encoded(part()), **good}), 2
    yield "absolute path", lambda: zipped({f"/{ESCAPED}": encoded(part()), **good}), 2
    yield "link to /etc/passwd", lambda: _linked(zipped(good), "/etc/passwd"), 1
    yield "picture and text", lambda: zipped({"read.txt": b"me", **good}), 1
    yield "damaged picture", lambda: zipped({"bad.png": encoded(part())[:9000], **good}), 1
    yield "256 MiB of zeros", lambda: zipped({"zeros.png": bytes(2**28)}), 0
    yield "member that lies about its size", _liar, 0
    yield "20000 members", lambda: zipped(many), 0
    yield "20000 members behind a false end record", lambda: hidden_directory(zipped(many)), 0
    yield "zip in a zip", lambda: zipped({"inner.zip": zipped(good)}), 0
    yield "password", lambda: _locked(zipped(good)), 0
    yield "cut short", lambda: zipped(good)[:5000], 0
    yield "text", lambda: b"not an archive\n", 0
    yield "empty", lambda: zipped({}), 0


def point_cloud() -> bytes:
    """An organised point cloud as MVTec 3D-AD keeps them."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, draw_part("tire", 500).xyz, photometric="rgb")
    return stream.getvalue()


def hidden_directory(data: bytes) -> bytes:
    """A zip whose end record holds another one's signature, by which some readers find a list of 0 bytes."""
    signature, counts_and_size, comment_length = data[-22:-18], data[-14:-6], data[-2:]
    return data[:-22] + signature + signature + counts_and_size + bytes(4) + comment_length


def _png(side: int, more: list[bytes] | None = None) -> bytes:
    """A PNG that declares a size and holds next to nothing but the chunks `more`."""
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = _png_chunk(b"IDAT", zlib.compress(bytes(64)))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *(more or []), pixels, _png_chunk(b"IEND", b"")))


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _transparent() -> bytes:
    image = part().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return encoded(image)


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    return encoded(part().crop((0, 0, 320, 240)), "JPEG", exif=exif)


def _bomb() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return encoded(Image.new("1", (12000, 12000)))


def _frames(kind: str) -> bytes:
    return encoded(part(), kind, save_all=True, append_images=[part().transpose(Image.Transpose.ROTATE_90)])


def _linked(data: bytes, target: str) -> bytes:
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, target)
    return stream.getvalue()


def _liar() -> bytes:
    """The sizes in both headers say 100 bytes; the data goes on for 64 MiB."""
    true, false = struct.pack("<I", 2**26), struct.pack("<I", 100)
    data = zipped({"zeros.png": bytes(2**26)})
    assert data.count(true) == 2
    return data.replace(true, false)


def _locked(data: bytes) -> bytes:
    """The flags in both headers say that the member is encrypted."""
    changed = bytearray(data)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[data.index(signature) + offset] |= 1
    return bytes(changed)
