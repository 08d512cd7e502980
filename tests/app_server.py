"""`app.py` in a process of its own, with its home, caches and temporary files in one folder."""

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
_TIMEOUT = 120  # seconds until a server that does not answer is given up


class AppServer:
    """A server that answers once it is made.

    Attributes:
        url: Where it answers.
        folder: All that it may write lies in `home` (checkpoints, Hub cache) and `temporary` in here.
        working: The directory that it runs in.
        log: What it printed.
    """

    def __init__(self, folder: Path, script: Path) -> None:
        self.folder, self.home, self.temporary = folder, folder / "home", folder / "temporary"
        self.working, self.log = folder / "working", folder / "log.txt"
        for path in (self.home, self.temporary, self.working):
            path.mkdir(parents=True, exist_ok=True)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.url, command = f"http://127.0.0.1:{port}", [sys.executable, str(script), "--port", str(port)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.working, env=self._environment(), stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + _TIMEOUT
        while not self.is_alive():
            if self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"app.py does not answer; it says:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends it and all that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=_TIMEOUT)

    def is_alive(self) -> bool:
        """Whether the page is served."""
        try:
            return httpx.get(f"{self.url}/config", timeout=30, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes of memory: VmRSS now, VmHWM at its peak so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition(f"{field}:")[2].split()[0]) * 1024

    def files(self) -> set[Path]:
        """Every file in its folder but the log."""
        return {path for path in self.folder.rglob("*") if path.is_file() and path != self.log}

    def _environment(self) -> dict[str, str]:
        others = ("GRADIO_", "HF_", "AST_HF_", "XDG_")  # each of them has its default in HOME or TMPDIR
        kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        ours = {"PYTHONPATH": REPOSITORY, "HOME": self.home, "TMPDIR": self.temporary}
        options = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return {**kept, **{name: str(path) for name, path in ours.items()}, **options}


@contextmanager
def running_app(folder: Path, script: Path = REPOSITORY / "app.py") -> Iterator[AppServer]:
    """A server that answers until the block ends; `script` is `app.py`, or one that runs it."""
    server = AppServer(folder, script)
    try:
        yield server
    finally:
        server.stop()
