"""Strangers' files, within limits: pictures one by one or in a zip, and organised point clouds."""

import io
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import gradio as gr
import numpy as np
from PIL import Image

from ast_hf.data.images import read_image, read_mask
from ast_hf.data.reading import ImageLimits, decoding
from ast_hf.data.scans import read_scan
from ast_hf.errors import ImageReadError

MAX_FILE_BYTES = 64 * 2**20
MAX_PICTURES = 200  # of one run
# Larger pictures are scaled down to this many pixels, for a visitor waits until they are drawn and sent, and larger
# scans are refused. The networks see a few hundred pixels a side in any case.
MAX_PIXELS = 2**21
MAX_DIRECTORY_BYTES = 2**19  # of a zip's list of members, with the records at its end
MAX_UNPACKED_BYTES = 512 * 2**20  # of all members of a zip together
_LIMITS = ImageLimits(max_bytes=MAX_FILE_BYTES, max_points=MAX_PIXELS)


class DemoError(gr.Error):
    """Something a visitor can mend: gradio shows `message`, which names no path; `reason` is without a file's name."""

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(text, print_exception=False)
        self.reason = reason


@dataclass(frozen=True)
class Upload:
    """A picture that was uploaded, by itself or as a member of a zip."""

    name: str
    path: Path
    member: zipfile.ZipInfo | None = None

    @property
    def place(self) -> PurePosixPath:
        """Its zip and its path in there, or its name."""
        inside = self.member.filename.replace("\\", "/").split("/") if self.member else []
        return PurePosixPath(*map(shown_name, [str(self.path), *inside]))

    def picture(self) -> Image.Image:
        """As `read_picture`."""
        with _named(self.name):
            return read_picture(self.path if self.member is None else _unpacked(self.path, self.member), self.name)

    def try_picture(self) -> Image.Image | DemoError:
        """The picture, or the error in its place."""
        try:
            return self.picture()
        except DemoError as error:
            return error


def read_picture(source: str | os.PathLike[str] | bytes, name: str | None = None) -> Image.Image:
    """A picture as `data.read_image` gives it, scaled down to `MAX_PIXELS`.

    Raises `DemoError`, which knows it by `name` or by the file's own name, where it cannot be used.
    """
    with _named(name or shown_name(str(source))):
        picture = read_image(source, limits=_LIMITS)
    ratio = (MAX_PIXELS / (picture.width * picture.height)) ** 0.5
    if ratio >= 1:
        return picture
    width, height = (max(1, int(side * ratio)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)


def read_mask_file(path: str | os.PathLike[str]) -> np.ndarray:
    """A mask as `data.read_mask` gives it; errors as `read_picture`."""
    with _named(shown_name(path)):
        return read_mask(path, limits=_LIMITS)


def read_cloud(path: str | os.PathLike[str]) -> np.ndarray:
    """An organised point cloud as `data.read_scan` gives it; errors as `read_picture`."""
    with _named(shown_name(path)):
        return read_scan(path, limits=_LIMITS)


def find_uploads(paths: Sequence[str] | None, *, most: int = MAX_PICTURES) -> list[Upload]:
    """The uploaded pictures, with those inside of zips; nothing is read or unpacked yet.

    Raises `DemoError` where there are none, too many, or a zip is damaged or larger than it may be.
    """
    found: list[Upload] = []
    for path in map(Path, paths or ()):
        found += _members(path) if path.suffix.lower() == ".zip" else [Upload(shown_name(path), path)]
    if not found:
        raise DemoError("There are no pictures yet: add some, or a zip of them.")
    if len(found) > most:
        raise DemoError(f"These are {len(found)} pictures: give at most {most} at a time.")
    return found


def shown_name(path: str | os.PathLike[str]) -> str:
    """A file's own name, without folders and what cannot be printed."""
    name = PurePosixPath(os.fspath(path).replace("\\", "/")).name
    return "".join(c if c.isprintable() else "?" for c in name)[:80]


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Makes a `DemoError` of what readers raise, without the decoder's own words in brackets."""
    try:
        yield
    except ImageReadError as error:
        reason = re.sub(r" \([A-Z]\w*: .*\)(?=;)", "", error.reason, flags=re.DOTALL)
        raise DemoError(f"{name}: {reason}", reason) from error


class _DirectoryFile(io.FileIO):
    """A zip that gives no more bytes than a list of members may have.

    `zipfile` reads the list whole. Where it is, and how long, is not foretold here but counted as it is read: two
    readers of the records at a zip's end may understand them differently.
    """

    _left = MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        most = self._left + 1
        data = super().read(most if size is None or size < 0 else min(size, most)) or b""
        self._left -= len(data)
        if self._left < 0:
            raise DemoError(f"The zip has too many members: give at most {MAX_PICTURES} pictures at a time.")
        return data


def _members(path: Path) -> list[Upload]:
    name = shown_name(path)
    try:
        with _DirectoryFile(path) as file, zipfile.ZipFile(file) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir() and not _is_hidden(info.filename)]
    except DemoError:  # gradio's errors are ValueErrors
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DemoError(f"{name} is damaged or no zip file: pack the pictures again.") from error
    if sum(info.file_size for info in infos) > MAX_UNPACKED_BYTES:
        raise DemoError(f"{name} unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB: give the pictures in parts.")
    return [Upload(shown_name(info.filename), path, info) for info in infos]


def _is_hidden(member: str) -> bool:
    """Whether it is one of those files that systems add by themselves."""
    parts = PurePosixPath(member.replace("\\", "/")).parts
    return not parts or parts[0] == "__MACOSX" or parts[-1].startswith(".") or parts[-1] == "Thumbs.db"


def _unpacked(path: Path, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes, never more than a file may have, whatever the zip says about it."""
    with decoding(info.filename):
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ImageReadError(info.filename, "it is encrypted or packed in an unusual way; pack it as plain zip.")
        with zipfile.ZipFile(path) as archive, archive.open(info) as file:
            return file.read(MAX_FILE_BYTES + 1)
