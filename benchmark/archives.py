"""Archives that datasets come in (archives.json): fetched over HTTP, compared with their checksums, unpacked safely."""

from __future__ import annotations

import hashlib
import itertools
import json
import lzma
import os
import re
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx
from tqdm import tqdm

from ast_hf.errors import ASTError

_MAX_MEMBERS = 100_000  # the largest of these datasets has some 13,000


class DownloadError(ASTError, RuntimeError):
    """A dataset could not be brought into place; what is of use for another try is kept."""


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
        """The file's name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Patience:
    """How much a download puts up with."""

    attempts: int = 6  # failed connections in a row that brought less than 1 MiB
    timeout: float = 60.0  # seconds without a single byte
    stall_seconds: float = 60.0  # over which the rate is judged
    stall_rate: float = 1024.0  # bytes a second, below which the download is given up
    sleep: Callable[[float], None] = time.sleep  # waits between two connections


def load_archives(dataset: str) -> tuple[Archive | None, dict[str, Archive]]:
    """Gives the archive of a dataset, or None, and by name those of its single categories, where there are any."""
    entry = json.loads(Path(__file__).with_suffix(".json").read_bytes()).get(dataset)
    if entry is None:
        return None, {}
    whole = Archive(**entry["archive"])
    links = entry.get("categories", {})
    size = whole.size // max(len(links), 1)  # a mean one: those of the single categories are not known
    return whole, {name: Archive(url, size, expansion=whole.expansion) for name, url in links.items()}


def fetch(archive: Archive, url: str, part: Path, hint: str, patience: Patience) -> None:
    """Downloads an archive into `part`, continuing what is there; DownloadError (with the hint) where that fails."""
    failures, reached = 0, length(part)
    with httpx.Client(follow_redirects=True, timeout=patience.timeout) as client:
        while not (archive.exact and length(part) == archive.size):
            try:
                return _connect(client, archive, url, part, hint, patience)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
                raise DownloadError(f"{url} cannot be followed ({error}). {hint}") from error
            except httpx.TransportError as error:
                failures = 1 if length(part) >= reached + 2**20 else failures + 1
                reached = max(reached, length(part))
                if failures >= patience.attempts:
                    what = f"{url} failed {failures} times in a row ({str(error) or type(error).__name__})"
                    raise DownloadError(f"{what}. The same command continues {part}. {hint}") from error
            patience.sleep(2.0 ** (failures - 1))


def _connect(client: httpx.Client, archive: Archive, url: str, part: Path, hint: str, patience: Patience) -> None:
    note = part.with_name(f"{part.name}.from")  # the link, and the server's name for this version of the file
    known_url, _, validator = note.read_text().partition("\n") if note.is_file() else ("", "", "")
    headers = {"Accept-Encoding": "identity"}  # offsets in a compressed transfer would be those of another file
    if length(part) and url == known_url and validator:
        headers |= {"Range": f"bytes={length(part)}-", "If-Range": validator}
    elif length(part) and archive.checksum:  # another mirror, or one that names no versions: the checksum will tell
        headers["Range"] = f"bytes={length(part)}-"
    with client.stream("GET", url, headers=headers) as response:
        start, total = _extent(response, archive, part, hint)
        if start == total:
            return
        chunks = _paced(response.iter_raw(), patience, f"{url} stalls. The same command continues {part}.")
        first = next(chunks, b"")
        # Looked at before the file is opened: a page in place of the archive must not replace what is there.
        if "html" in response.headers.get("Content-Type", "") or (not start and first.lstrip()[:1] == b"<"):
            raise DownloadError(f"{url} is a web page and no archive. {hint}")
        etag = response.headers.get("ETag", "W/")  # weak ones do not promise the same bytes
        bar = tqdm(desc=archive.name, total=total, initial=start, unit="B", unit_scale=True, disable=None)
        with part.open("ab" if start else "wb") as file, bar:
            note.write_text(f"{url}\n{response.headers.get('Last-Modified', '') if etag.startswith('W/') else etag}")
            for chunk in itertools.chain([first], chunks):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > total:
                    raise DownloadError(f"{url} sends more than the {total} bytes of the archive. {hint}")
    if length(part) < total:
        raise httpx.RemoteProtocolError(f"it ended after {length(part)} of {total} bytes")


def _extent(response: httpx.Response, archive: Archive, part: Path, hint: str) -> tuple[int, int]:
    """Where in the file the response starts, and how long the whole file is; equal where nothing is missing."""
    status, headers, done = response.status_code, response.headers, length(part)
    if status == 416 and headers.get("Content-Range") == f"bytes */{done}":
        return done, done
    if status == 416:
        part.unlink(missing_ok=True)  # it is longer than the file, and so of another one
    if status in (408, 416, 429) or status >= 500:
        raise httpx.RemoteProtocolError(f"HTTP {status}")
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", "")) if status == 206 else None
    if status != 200 and not (span and int(span[1]) == done):
        raise DownloadError(f"{response.url} answers with HTTP {status}. {hint}")
    total = span[2] if span else headers.get("Content-Length", str(archive.size) if archive.exact else "unknown")
    if not total.isdecimal() or (archive.exact and int(total) != archive.size):
        raise DownloadError(f"{response.url} has {total} bytes, and the archive has {archive.size}. {hint}")
    return done if span else 0, int(total)


def _paced(chunks: Iterator[bytes], patience: Patience, message: str) -> Iterator[bytes]:
    """Passes chunks on unless they come too slowly: a timeout alone waits for ever for a byte now and then."""
    since, received = time.monotonic(), 0
    for chunk in chunks:
        yield chunk
        received += len(chunk)
        if (elapsed := time.monotonic() - since) >= patience.stall_seconds:
            if received < patience.stall_rate * elapsed:
                raise DownloadError(f"{received} bytes in {elapsed:.0f} s: {message}")
            since, received = time.monotonic(), 0


def length(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
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
    if digest.hexdigest() != wanted:
        aside = path.replace(path.with_name(f"{archive.name}.wrong"))
        which = f"the {algorithm} {digest.hexdigest()} and should have {wanted}"
        raise DownloadError(f"{path} has {which}. It is kept as {aside}: try again, or another link with --url.")


def unpack(path: Path, root: Path, names: Collection[str], *, max_bytes: float) -> None:
    """Unpacks folders of an archive into `root`, each whole or not at all; DownloadError for damage or foul play."""
    staging = root / f".{path.name}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        _extract(path, staging, names, max_bytes)
        if absent := [name for name in names if not (staging / name).is_dir()]:
            raise DownloadError(f"{path} has no folder {', '.join(absent)}: it is not the archive that it should be.")
        for name in names:
            os.replace(staging / name, root / name)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise DownloadError(f"{path} is damaged or no archive ({error}): remove it and download it again.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(path: Path, target: Path, names: Collection[str], max_bytes: float) -> None:
    size = 0
    with tarfile.open(path) as tar:
        for count, member in enumerate(tqdm(tar, desc=f"Unpacking {path.name}", unit=" files", disable=None)):
            size += abs(member.size)
            if count >= _MAX_MEMBERS or size > max_bytes:
                raise DownloadError(f"{path} is not unpacked: it has {count} files, {size} bytes and more.")
            name = PurePosixPath(member.name)
            if not (member.isreg() or member.isdir()) or name.is_absolute() or ".." in name.parts:
                raise DownloadError(f"{path} is not unpacked: {member.name!r} is a link, a device or lies outside.")
            # The first part, or the second where one folder is around everything.
            start = next((index for index, part in enumerate(name.parts[:2]) if part in names), None)
            if start is not None:
                inner = member.replace(name="/".join(name.parts[start:]), deep=False)
                tar.extract(inner, target, filter="data")
        # tarfile takes damage for the end, and compressed data are checked only when they are read to theirs.
        rest = tar.fileobj.read(2**20) if tar.fileobj else b""
        if len(rest) == 2**20 or rest.strip(b"\0"):
            raise tarfile.ReadError("it goes on behind its end")
