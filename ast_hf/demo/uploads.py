"""Strangers' files, within limits: pictures one by one or in a zip, and organised point clouds."""

from __future__ import annotations

import os
import re
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ast_hf.errors import ASTError, ImageReadError
from ast_hf.images import read_image, read_scan
from ast_hf.reading import ImageLimits, one_error

MAX_FILE_BYTES = 64 * 2**20
MAX_PICTURES = 200  # of one run
# Larger pictures are scaled down to this many pixels, for a visitor waits until they are drawn and sent, and larger
# scans are refused. The networks see a few hundred pixels a side in any case.
MAX_PIXELS = 2**21
_LIMITS = ImageLimits(max_bytes=MAX_FILE_BYTES, max_points=MAX_PIXELS)
_MAX_UNPACKED_BYTES = 512 * 2**20
_MAX_RATIO = 200  # of a member's size to what it takes in the zip
_MAX_DIRECTORY_BYTES = 2**20  # of a zip's list of members
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class DemoError(ASTError):
    """Something a visitor can mend; its text is for the page, and names no path."""


@dataclass(frozen=True)
class Upload:
    """A picture that was uploaded, by itself or as a member of a zip."""

    name: str
    path: Path
    member: zipfile.ZipInfo | None = None

    def picture(self) -> Image.Image:
        """As `read_picture`."""
        return read_picture(self.path if self.member is None else _unpacked(self, self.member), self.name)


def read_picture(source: str | os.PathLike[str] | bytes, name: str | None = None) -> Image.Image:
    """A picture as `ast_hf.images.read_image`, scaled down to `MAX_PIXELS`.

    Raises:
        ImageReadError: It cannot be used; the error knows it by `name`, or by the file's own name.
    """
    try:
        picture = read_image(source, limits=_LIMITS)
    except ImageReadError as error:
        raise ImageReadError(name or shown_name(str(source)), _plain(error.reason)) from error
    ratio = (MAX_PIXELS / (picture.width * picture.height)) ** 0.5
    if ratio < 1:
        size = max(1, int(picture.width * ratio)), max(1, int(picture.height * ratio))
        picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return picture


def read_cloud(path: str | os.PathLike[str]) -> np.ndarray:
    """An organised point cloud as `ast_hf.images.read_scan`; errors know it by the file's own name."""
    try:
        return read_scan(path, limits=_LIMITS)
    except ImageReadError as error:
        raise ImageReadError(shown_name(path), _plain(error.reason)) from error


def find_uploads(paths: Sequence[str] | None, *, most: int = MAX_PICTURES) -> list[Upload]:
    """The uploaded pictures, with those inside of zips; nothing is read or unpacked yet.

    Raises:
        DemoError: There are none, too many, or a zip is damaged or larger than it may be.
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


def _plain(reason: str) -> str:
    """A reason without the decoder's own words in brackets."""
    return re.sub(r" \([A-Z]\w*: .*\)(?=;)", "", reason, flags=re.DOTALL)


def _members(path: Path) -> list[Upload]:
    name = shown_name(path)
    try:
        if _directory_bytes(path) > _MAX_DIRECTORY_BYTES:
            raise DemoError(f"{name} has too many members: give at most {MAX_PICTURES} pictures at a time.")
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir() and not _is_hidden(info.filename)]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DemoError(f"{name} is damaged or no zip file: pack the pictures again.") from error
    if sum(info.file_size for info in infos) > _MAX_UNPACKED_BYTES:
        raise DemoError(f"{name} unpacks to more than {_MAX_UNPACKED_BYTES >> 20} MiB: give the pictures in parts.")
    return [Upload(shown_name(info.filename), path, info) for info in infos]


def _directory_bytes(path: Path) -> int:
    """What a zip says about the size of its list of members, all of which `zipfile` reads into memory at once."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2**16 - 22))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    return struct.unpack_from("<L", tail, end + 12)[0] if 0 <= end <= len(tail) - 16 else 0


def _is_hidden(member: str) -> bool:
    """Whether it is one of those files that systems add by themselves."""
    parts = PurePosixPath(member.replace("\\", "/")).parts
    return not parts or parts[0] == "__MACOSX" or parts[-1].startswith(".") or parts[-1] == "Thumbs.db"


def _unpacked(upload: Upload, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes, never more than a file may have, whatever the zip says about it."""
    with one_error(upload.name):
        if info.flag_bits & 1 or info.compress_type not in _COMPRESSIONS:
            raise ImageReadError(upload.name, "it is encrypted or packed in an unusual way; pack it as plain zip.")
        if info.file_size > min(MAX_FILE_BYTES, _MAX_RATIO * max(info.compress_size, 1)):
            raise ImageReadError(upload.name, "it unpacks to far more than a picture is; give the picture itself.")
        with zipfile.ZipFile(upload.path) as archive, archive.open(info) as file:
            return file.read(MAX_FILE_BYTES + 1)
