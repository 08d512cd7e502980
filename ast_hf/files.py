"""Where the package keeps its files, and how it writes them: whole or not at all."""

import contextlib
import getpass
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ast_hf.errors import OutputError


def home() -> Path:
    """`$AST_HF_HOME`, or ~/.cache/ast_hf: the local store of checkpoints and backbones, and the feature cache."""
    try:
        folder = Path(os.environ.get("AST_HF_HOME") or "~/.cache/ast_hf").expanduser()
        (folder / "checkpoints").is_dir()
        return folder
    except (RuntimeError, PermissionError):  # no $HOME and no entry for the user; or nobody may look into it
        return Path(os.devnull, "ast_hf")  # which holds nothing and takes nothing


def name_compiler_cache() -> None:
    """Names a place for torch's compiler, which else fails where the user has no name, as in containers."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}")


def check_folder(folder: Path, remedy: str = "give another folder") -> None:
    """Raises an `OutputError` that ends in the remedy where a folder, which may not be there yet, takes no files."""
    try:
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))  # which a full disk refuses
        if new:
            folder.rmdir()
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise OutputError(f"Nothing can be written to {folder} ({reason}): {remedy}.") from error


def write_or_rescue(write: Callable[[Path], object], folder: Path) -> None:
    """Has `write` fill a folder, or where that fails another one, so that hours of work are not lost with it.

    Raises an `OutputError` that says which other one it was, or an OSError where no place takes it.
    """
    try:
        write(folder)
    except OSError as error:
        for place in (home() / "rescued", Path(tempfile.gettempdir())):
            with contextlib.suppress(OSError):
                place.mkdir(parents=True, exist_ok=True)
                write(rescue := Path(tempfile.mkdtemp(dir=place, prefix="ast-hf-")))
                raise OutputError(f"{folder} could not be written ({error}): all of it is in {rescue}.") from error
        raise


def write_atomic(path: Path, *data: bytes | memoryview) -> None:
    """Writes a file, given in one piece or more, that appears whole or not at all, also after a power cut."""
    write_together({path: data})


def write_together(files: Mapping[Path, Sequence[bytes | memoryview]]) -> None:
    """Writes files, each as `write_atomic`, of which the first takes its place when all of them are on the disk.

    They get the permissions that the process gives its files (its umask).
    """
    aside: dict[Path, str] = {}
    try:
        for path, data in files.items():
            handle, aside[path] = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.")
            with os.fdopen(handle, "wb") as file:
                file.writelines(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(aside[path], 0o666 & ~current_umask())  # mkstemp makes files that only their owner may read
        for path, temporary in aside.items():
            os.replace(temporary, path)
        for folder in {path.parent for path in files}:
            sync_folder(folder)
    except BaseException as error:
        for temporary in aside.values():
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # as where the disk is full
            error.filename = str(path)
        raise


def sync_folder(folder: Path) -> None:
    """Has the disk keep the names in a folder; without it a renamed file may be gone after a power cut."""
    if os.name != "posix":  # elsewhere folders cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def current_umask() -> int:
    """The permission bits that the process takes from its new files."""
    try:
        # Asking by os.umask would change it for a moment, for all threads.
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("Umask:")).split()[1], 8)
    except (OSError, StopIteration):
        mask = os.umask(0o077)
        os.umask(mask)
        return mask
