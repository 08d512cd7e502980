"""Where the package keeps its files, and how it writes them: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def home() -> Path:
    """`$AST_HF_HOME`, or ~/.cache/ast_hf: the local store of checkpoints and backbones, and the feature cache."""
    return Path(os.environ.get("AST_HF_HOME") or Path.home() / ".cache" / "ast_hf").expanduser()


def write_atomic(path: Path, *data: bytes | memoryview) -> None:
    """Writes a file, given in one piece or more, that appears whole or not at all, also after a power cut.

    The file gets the permissions that the process gives its files (its umask).
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:64]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~current_umask())  # mkstemp makes files that only their owner may read
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
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
