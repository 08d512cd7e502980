"""Archives that datasets come in (archives.json): fetched over HTTP, compared with their checksums, unpacked safely."""

import hashlib
import json
import lzma
import os
import re
import shutil
import tarfile
import time
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx
from tqdm import tqdm

from ast_hf.errors import ASTError

ATTEMPTS = 6  # failed connections in a row that brought less than 1 MiB
TIMEOUT = 60.0  # seconds without a single byte


class DownloadError(ASTError, RuntimeError):
    """A dataset could not be put into place; what is of use for another try is kept."""


@dataclass(frozen=True)
class Archive:
    """A file that a dataset, or one category of it, is published as."""

    url: str  # the last known one; the file keeps its name when the link changes
    size: int  # in bytes
    exact: bool = False  # whether the size is to the byte
    checksum: str = ""  # "sha256:DIGEST" or "md5:DIGEST", where one is known
    expansion: float = 1.0  # bytes on disk for a byte of the file, roughly
    extra: str = ""  # a folder that no category can be read without

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def load_archives(dataset: str) -> tuple[Archive | None, dict[str, Archive]]:
    """Gives the archive of a dataset, or None, and by name those of its single categories, where there are any."""
    entry = json.loads(Path(__file__).with_suffix(".json").read_bytes()).get(dataset)
    if entry is None:
        return None, {}
    whole = Archive(**entry["archive"])
    links = entry.get("categories", {})
    size = whole.size // max(len(links), 1)  # a mean one: those of the single categories are not known
    return whole, {name: Archive(url, size, expansion=whole.expansion) for name, url in links.items()}


def fetch(archive: Archive, url: str, path: Path, hint: str) -> None:
    """Downloads an archive to `path`, continuing `path`.part, and verifies it; a `DownloadError` ends with the hint."""
    part = path.with_name(f"{path.name}.part")
    note = path.with_name(f"{path.name}.from")  # the link, and the server's name for this version of the file
    failures = 0
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client:
        while not (archive.exact and _length(part) == archive.size):
            start = _length(part)
            try:
                _receive(client, archive, url, part, note, hint)
                break
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
                raise DownloadError(f"{url} cannot be followed ({error}). {hint}") from error
            except (httpx.TransportError, ConnectionError) as error:
                failures = 1 if _length(part) >= start + 2**20 else failures + 1
                if failures >= ATTEMPTS:
                    what = f"{url} failed {failures} times in a row ({str(error) or type(error).__name__})"
                    raise DownloadError(f"{what}. The same command continues {part}. {hint}") from error
            time.sleep(2.0 ** (failures - 1))
    verify(part, archive)
    part.replace(path)
    note.unlink(missing_ok=True)


def _receive(client: httpx.Client, archive: Archive, url: str, part: Path, note: Path, hint: str) -> None:
    """Receives what is missing over one connection; ConnectionError where another one may get more."""
    start, (known_url, _, version) = _length(part), (note.read_text() if note.is_file() else "").partition("\n")
    headers = {"Accept-Encoding": "identity"}  # offsets in a compressed transfer would be those of another file
    if start and (archive.checksum or (url == known_url and version)):
        headers["Range"] = f"bytes={start}-"
        # Another mirror, or one that names no versions, has no say: the checksum will tell.
        headers |= {"If-Range": version} if url == known_url and version else {}
    with client.stream("GET", url, headers=headers) as response:
        start, total = _extent(response, archive, part, hint)
        # Told before the file is opened: a page in place of the archive must not replace what is there.
        if "html" in response.headers.get("Content-Type", ""):
            raise DownloadError(f"{url} is a web page and no archive. {hint}")
        version = response.headers.get("ETag", "W/")
        if version.startswith("W/"):  # weak ones do not promise the same bytes
            version = response.headers.get("Last-Modified", "")
        bar = tqdm(desc=archive.name, total=total, initial=start, unit="B", unit_scale=True, disable=None)
        with part.open("ab" if start else "wb") as file, bar:
            note.write_text(f"{url}\n{version}")
            for chunk in response.iter_raw():
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > total:
                    raise DownloadError(f"{url} sends more than the {total} bytes of the archive. {hint}")
    if _length(part) < total:
        raise ConnectionError(f"it ended after {_length(part)} of {total} bytes")


def _extent(response: httpx.Response, archive: Archive, part: Path, hint: str) -> tuple[int, int]:
    """Where in the file the response starts, and how long the whole file is."""
    status, headers, done = response.status_code, response.headers, _length(part)
    if status == 416:
        part.unlink(missing_ok=True)  # it is as long as the file or longer, and so of another one
    if status in (408, 416, 429) or status >= 500:
        raise ConnectionError(f"HTTP {status}")
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", "")) if status == 206 else None
    if status != 200 and not (span and int(span[1]) == done):
        raise DownloadError(f"{response.url} answers with HTTP {status}. {hint}")
    total = span[2] if span else headers.get("Content-Length", str(archive.size) if archive.exact else "unknown")
    if not total.isdecimal() or (archive.exact and int(total) != archive.size):
        raise DownloadError(f"{response.url} has {total} bytes, and the archive has {archive.size}. {hint}")
    return done if span else 0, int(total)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def verify(path: Path, archive: Archive) -> None:
    """Compares a file with the archive's checksum, if one is known; a wrong file is renamed and a DownloadError."""
    if not archive.checksum:
        return
    algorithm, _, wanted = archive.checksum.partition(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    if (found := digest.hexdigest()) != wanted:
        kept = path.replace(path.with_name(f"{archive.name}.wrong"))
        what = f"{path} has the {algorithm} {found} and should have {wanted}"
        raise DownloadError(f"{what}. It is kept as {kept}: try again, or another link with --url.")


def unpack(path: Path, root: Path, names: Collection[str], *, max_bytes: float, max_files: int = 100_000) -> None:
    """Unpacks folders, at an archive's top or in one folder around everything, into `root`, each whole or not at all.

    A `DownloadError` where it is damaged, lacks a folder, holds links, or has more bytes or files than it may.
    """
    staging = root / f".{path.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        with tarfile.open(path) as tar:
            tar.extractall(staging, _wanted_members(tar, names, max_bytes, max_files), filter="data")
            # tarfile takes damage for the end, and compressed data are checked only when they are read to theirs.
            rest = tar.fileobj.read(2**20) if tar.fileobj else b""
            if len(rest) == 2**20 or rest.strip(b"\0"):
                raise tarfile.ReadError("it goes on behind its end")
        if absent := [name for name in names if not (staging / name).is_dir()]:
            raise tarfile.ReadError(f"it has no folder {', '.join(absent)}")
        for name in names:
            os.replace(staging / name, root / name)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise DownloadError(f"The archive {path} cannot be used ({error}): remove it and download it again.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _wanted_members(
    tar: tarfile.TarFile, names: Collection[str], max_bytes: float, max_files: int
) -> Iterator[tarfile.TarInfo]:
    """The files and folders in the named folders, with paths that begin with these; tarfile.TarError for others."""
    size = 0
    for count, member in enumerate(tqdm(tar, desc="Unpacking", unit=" files", disable=None)):
        size += abs(member.size)
        if count >= max_files or size > max_bytes:
            raise tarfile.ReadError(f"it has {count} files, {size} bytes and more")
        if not (member.isreg() or member.isdir()):  # no dataset has any, and tarfile's filter lets some links through
            raise tarfile.ReadError(f"{member.name!r} is a link or a device")
        parts = PurePosixPath(member.name).parts
        start = next((index for index, part in enumerate(parts[:2]) if part in names), None)
        if start is not None:
            yield member.replace(name="/".join(parts[start:]), deep=False)
