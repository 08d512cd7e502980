"""A Hugging Face Hub on loopback, in memory: what the client needs to push, pull and group models, and its errors.

A token is "Bearer USER"; a user sees the private repositories of every organisation but "strangers". All files are
small enough to be part of their commit.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import huggingface_hub.constants
import pytest

Tree = dict[str, bytes]


@dataclass
class Repo:
    """One repository: commits by id, branches and tags by name."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Tree] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, tree: Tree, branch: str = "main") -> str:
        content = repr((sorted((k, hashlib.sha256(v).hexdigest()) for k, v in tree.items()), self.refs)).encode()
        oid = hashlib.sha1(content).hexdigest()
        self.commits[oid], self.refs[branch] = tree, oid
        return oid


class Hub(ThreadingHTTPServer):
    """The server and all that it stores; `requests` holds (method, path, user agent)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def add(self, repo_id: str, tree: Tree | None = None, **kind: bool) -> Repo:
        """A repository with one commit, made without any client."""
        repo = self.repos.setdefault(repo_id, Repo(**kind))
        repo.commit(tree or {".gitattributes": b""})
        return repo


def logged_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A fixture's body: a Hub that the client of this process talks to, logged in as "me"."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    url = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    # The client reads its variables once, when it is imported.
    for name, value in {"ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": False, "HUGGINGFACE_CO_URL_TEMPLATE": url}.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "me")
    yield hub
    hub.shutdown()
    hub.server_close()
    thread.join()


class _Refused(Exception):
    """An answer that is no success: status and the Hub's own error code."""

    def __init__(self, status: int, code: str = "", **more: Any) -> None:
        super().__init__(code)
        self.status, self.code, self.more = status, code, more


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    _ROUTES = (
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", "info"),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/.*)?", "tree"),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "commit"),
        ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
        ("POST", r"/api/collections", "collection"),
        ("GET", r"/api/collections/(.+)", "show_collection"),
        ("POST", r"/api/collections/(.+)/items", "add_item"),
    )

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path, self.headers.get("User-Agent", "")))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        method = "GET" if self.command == "HEAD" else self.command
        try:
            for verb, pattern, name in self._ROUTES:
                match = re.fullmatch(pattern, path)
                if verb == method and match:
                    answer = getattr(self, name)(body, *(unquote(g) if g else g for g in match.groups()))
                    return self._send(*answer) if isinstance(answer, tuple) else self._send(answer)
            raise _Refused(404)
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.code} if refused.code else {}
            self._send({"error": refused.code, **refused.more}, headers, refused.status)

    do_GET = do_HEAD = do_POST = _answer

    def _send(self, content: Any, headers: dict[str, str] | None = None, status: int = 200) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass

    @property
    def user(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _repo(self, repo_id: str, *, write: bool = False) -> Repo:
        repo, strange = self.server.repos.get(repo_id), repo_id.startswith("strangers/")
        if repo is None or (repo.private and self.user and strange):
            raise _Refused(404, "RepoNotFound")
        if (repo.private or repo.gated) and not self.user:
            raise _Refused(401, "RepoNotFound" if repo.private else "GatedRepo")
        if write and (not self.user or strange):
            raise _Refused(403)
        return repo

    def _tree(self, repo_id: str, revision: str | None) -> tuple[str, Tree]:
        repo, name = self._repo(repo_id), revision or "main"
        oid = repo.refs.get(name, name)
        if oid not in repo.commits:
            raise _Refused(404, "RevisionNotFound")
        return oid, repo.commits[oid]

    def create(self, body: bytes) -> Any:
        asked = json.loads(body)
        repo_id = f"{asked.get('organization') or self.user}/{asked['name']}"
        if not self.user or repo_id.startswith("strangers/"):
            raise _Refused(403 if self.user else 401)
        url = {"url": f"{self.server.endpoint}/{repo_id}", "name": repo_id, "id": "1"}
        if repo_id in self.server.repos:
            raise _Refused(409, "Conflict", **url)
        self.server.add(repo_id, private=asked.get("private") or asked.get("visibility") == "private")
        return url

    def validate(self, body: bytes) -> Any:
        return {"errors": [], "warnings": []}

    def info(self, body: bytes, repo_id: str, revision: str | None) -> Any:
        oid, tree = self._tree(repo_id, revision)
        siblings = [{"rfilename": name} for name in tree]
        return {"id": repo_id, "sha": oid, "private": self._repo(repo_id).private, "siblings": siblings}

    def tree(self, body: bytes, repo_id: str, revision: str) -> Any:
        files = self._tree(repo_id, revision)[1].items()
        return [{"type": "file", "path": path, "size": len(data), "oid": _blob_id(data)} for path, data in files]

    def preupload(self, body: bytes, repo_id: str, revision: str) -> Any:
        self._repo(repo_id, write=True)
        tree, files = self._tree(repo_id, revision)[1], []
        for path in (file["path"] for file in json.loads(body)["files"]):
            known = {"oid": _blob_id(tree[path])} if path in tree else {}
            files.append({"path": path, "uploadMode": "regular", "shouldIgnore": False, **known})
        return {"files": files}

    def commit(self, body: bytes, repo_id: str, branch: str) -> Any:
        repo, tree = self._repo(repo_id, write=True), dict(self._tree(repo_id, branch)[1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del tree[value["path"]]
        oid = repo.commit(tree, branch)
        url = f"{self.server.endpoint}/{repo_id}/commit/{oid}"
        return {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}

    def resolve(self, body: bytes, repo_id: str, revision: str, path: str) -> Any:
        oid, tree = self._tree(repo_id, revision)
        if path not in tree:
            raise _Refused(404, "EntryNotFound")
        return tree[path], {"X-Repo-Commit": oid, "ETag": f'"{_blob_id(tree[path])}"'}

    def collection(self, body: bytes) -> Any:
        asked = json.loads(body)
        slug = f"{asked['namespace']}/{re.sub(r'[^a-z0-9]+', '-', asked['title'].lower())}-0123456789abcdef01234567"
        if slug in self.server.collections:
            raise _Refused(409, "Conflict", slug=slug)
        self.server.collections[slug] = {
            "slug": slug, "title": asked["title"], "owner": {"name": asked["namespace"]}, "items": [],
            "lastUpdated": "2023-01-01T00:00:00.000Z", "private": asked["private"], "theme": "blue", "upvotes": 0,
            "position": 0,
        }  # fmt: skip
        return self.server.collections[slug]

    def show_collection(self, body: bytes, slug: str) -> Any:
        return self.server.collections[slug]

    def add_item(self, body: bytes, slug: str) -> Any:
        item, collection = json.loads(body)["item"], self.server.collections[slug]
        if item["id"] in [known["id"] for known in collection["items"]]:
            raise _Refused(409, "Conflict")
        position = len(collection["items"])
        collection["items"].append({"_id": str(position), "id": item["id"], "type": item["type"], "position": position})
        return collection


def _blob_id(content: bytes) -> str:
    """As git names a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
