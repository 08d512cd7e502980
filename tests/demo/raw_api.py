"""The page's API spoken without its client, which would not send what a stranger sends."""

import json
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Answer:
    """What a call gave: `data` of the endpoint, or the `message` of the refusal, which may be empty."""

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
        return {"path": reply.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def call(self, endpoint: str, *arguments: Any) -> Answer:
        """Calls an endpoint and waits for its answer."""
        reply = self.http.post(f"/call/{endpoint}", json={"data": arguments})
        if reply.status_code != 200:
            return Answer(message=reply.text)
        event, payload = "", None
        with self.http.stream("GET", f"/call/{endpoint}/{reply.json()['event_id']}") as stream:
            for line in stream.iter_lines():
                key, _, value = line.partition(": ")
                if key == "event":
                    event = value
                elif key == "data":
                    payload = json.loads(value)
        if event == "complete":
            return Answer(payload)
        return Answer(message=str((payload.get("error") if isinstance(payload, dict) else payload) or ""))
