"""`app.py` in a process of its own, with its home, caches and temporary files in one folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

REPOSITORY = Path(__file__).resolve().parents[1]
_PATIENCE = 120  # seconds until a server that does not answer is given up


class AppServer:
    """A server that can be started, killed and started again on the same folder.

    Attributes:
        url: Where it answers.
        folder: All that it may write lies in `home` (checkpoints, Hub cache) and `temporary` in here.
        log: What it printed.
    """

    def __init__(self, folder: Path, script: Path = REPOSITORY / "app.py") -> None:
        self.script = script
        self.folder, self.home, self.temporary = folder, folder / "home", folder / "temporary"
        self.working, self.log = folder / "working", folder / "log.txt"
        for path in (self.home, self.temporary, self.working):
            path.mkdir(parents=True, exist_ok=True)
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = [sys.executable, str(self.script), "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.working, env=self._environment(), stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + _PATIENCE
        while not self.is_alive():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"app.py does not answer; it says:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.1)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """Ends it and all that it started; by default as a machine does that runs out of memory."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)
            self.process.wait(timeout=_PATIENCE)

    def is_alive(self) -> bool:
        """Whether the page is served."""
        try:
            return httpx.get(f"{self.url}/config", timeout=30, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes of memory: VmRSS now, VmHWM at its peak so far."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
        return int(line.split()[1]) * 1024

    def files(self) -> set[Path]:
        """Every file in its folder but the log."""
        return {path for path in self.folder.rglob("*") if path.is_file() and path != self.log}

    def _environment(self) -> dict[str, str]:
        ours = {
            "PYTHONPATH": REPOSITORY,
            "HOME": self.home,
            "XDG_CACHE_HOME": self.home / "cache",
            "AST_HF_HOME": self.home / "ast_hf",
            "HF_HOME": self.home / "huggingface",
            "TMPDIR": self.temporary,
            "GRADIO_TEMP_DIR": self.temporary / "gradio",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO_", "HF_"))}
        return kept | {name: str(value) for name, value in ours.items()}


@contextmanager
def running_app(folder: Path, script: Path = REPOSITORY / "app.py") -> Iterator[AppServer]:
    """A server that answers until the block ends; `script` is `app.py`, or one that runs it."""
    server = AppServer(folder, script)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
