"""The page's API spoken without its client, which would not send what a stranger sends."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Answer:
    """What a call gave: `data` of the endpoint, or the `message` of the refusal, which may be empty."""

    status: int
    data: list[Any] | None = None
    message: str = ""


class RawApi:
    """Calls by hand: upload, POST /call/NAME, then the stream of its events."""

    def __init__(self, url: str) -> None:
        # The server hangs up after some refusals: every request has a connection of its own.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(base_url=f"{url}/gradio_api", timeout=120, trust_env=False, limits=limits)

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        """Sends a file; gives it as an argument for `call`."""
        reply = self.http.post("/upload", files={"files": (name, data)})
        reply.raise_for_status()
        return file_at(reply.json()[0], name)

    def call(self, endpoint: str, *arguments: Any) -> Answer:
        """Calls an endpoint and waits for its answer."""
        reply = self.http.post(f"/call/{endpoint}", json={"data": arguments})
        if reply.status_code != 200:
            return Answer(reply.status_code, message=reply.text)
        event, payload = "", None
        with self.http.stream("GET", f"/call/{endpoint}/{reply.json()['event_id']}") as stream:
            for line in stream.iter_lines():
                key, _, value = line.partition(": ")
                if key == "event":
                    event = value
                elif key == "data":
                    payload = json.loads(value)
        if event == "complete":
            return Answer(200, data=payload)
        return Answer(200, message=_message(payload))


def file_at(path: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    """A file as the page's scripts name it, whether or not it was ever uploaded."""
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}, **more}


def _message(payload: Any) -> str:
    return str(payload.get("error") or "") if isinstance(payload, dict) else str(payload or "")
