"""A Hugging Face Hub on loopback, in memory: what the client needs to push, pull and group models, and its errors.

A token is "Bearer USER"; a user sees the private repositories of every organisation but "strangers". Uploads go the
LFS way (clients set HF_HUB_DISABLE_XET=1).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


class Hub(ThreadingHTTPServer):
    """The server and all that it stores; `requests` holds (method, path, user agent)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def add(self, repo_id: str, tree: Tree | None = None, **kind: bool) -> Repo:
        """A repository with one commit, made without any client."""
        repo = self.repos.setdefault(repo_id, Repo(**kind))
        repo.commit(tree or {".gitattributes": b""})
        return repo


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub that answers until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def logged_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A fixture's body: a Hub that the client of this process talks to, logged in as "me"."""
    with running_hub() as hub:
        settings = {"ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
        # The client reads its variables once, when it is imported.
        settings["HUGGINGFACE_CO_URL_TEMPLATE"] = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in settings.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "me")
        yield hub


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
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/upload/([0-9a-f]{64})", "upload"),
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
                    groups = [unquote(g) if g else g for g in match.groups()]
                    return self._send(*getattr(self, name)(body, *groups))
            raise _Refused(404)
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.code} if refused.code else {}
            self._send({"error": refused.code, **refused.more}, headers, refused.status)

    do_GET = do_HEAD = do_POST = do_PUT = _answer

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
        repo = self.server.repos.get(repo_id)
        if repo is None:
            raise _Refused(404, "RepoNotFound")
        if repo.private and not self.user:
            raise _Refused(401, "RepoNotFound")
        if repo.private and repo_id.startswith("strangers/"):
            raise _Refused(404, "RepoNotFound")
        if repo.gated and not self.user:
            raise _Refused(401, "GatedRepo")
        if write and (not self.user or repo_id.startswith("strangers/")):
            raise _Refused(403)
        return repo

    def _tree(self, repo_id: str, revision: str | None) -> tuple[str, Tree]:
        repo = self._repo(repo_id)
        oid = repo.resolve(revision or "main")
        if oid is None:
            raise _Refused(404, "RevisionNotFound")
        return oid, repo.commits[oid]

    def create(self, body: bytes) -> tuple[Any, ...]:
        asked = json.loads(body)
        repo_id = f"{asked.get('organization') or self.user}/{asked['name']}"
        if not self.user or repo_id.startswith("strangers/"):
            raise _Refused(403 if self.user else 401)
        url = {"url": f"{self.server.endpoint}/{repo_id}", "name": repo_id, "id": "1"}
        if repo_id in self.server.repos:
            raise _Refused(409, "Conflict", **url)
        self.server.add(repo_id, private=asked.get("private") or asked.get("visibility") == "private")
        return (url,)

    def validate(self, body: bytes) -> tuple[Any, ...]:
        return ({"errors": [], "warnings": []},)

    def info(self, body: bytes, repo_id: str, revision: str | None) -> tuple[Any, ...]:
        oid, tree = self._tree(repo_id, revision)
        repo = self._repo(repo_id)
        siblings = [{"rfilename": name} for name in tree]
        return ({"id": repo_id, "modelId": repo_id, "sha": oid, "private": repo.private, "siblings": siblings},)

    def tree(self, body: bytes, repo_id: str, revision: str) -> tuple[Any, ...]:
        _, tree = self._tree(repo_id, revision)
        return ([{"type": "file", "path": k, "size": len(v), **_identity(k, v)} for k, v in tree.items()],)

    def preupload(self, body: bytes, repo_id: str, revision: str) -> tuple[Any, ...]:
        self._repo(repo_id, write=True)
        _, tree = self._tree(repo_id, revision)
        files = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            known = {"oid": _content_id(path, tree[path])} if path in tree else {}
            mode = "lfs" if _is_lfs(path) else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        return ({"files": files},)

    def batch(self, body: bytes, repo_id: str) -> tuple[Any, ...]:
        self._repo(repo_id, write=True)
        objects = []
        for item in json.loads(body)["objects"]:
            upload = {"href": f"{self.server.endpoint}/upload/{item['oid']}", "header": {}}
            objects.append({**item, **({} if item["oid"] in self.server.blobs else {"actions": {"upload": upload}})})
        return ({"transfer": "basic", "objects": objects},)

    def upload(self, body: bytes, oid: str) -> tuple[Any, ...]:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "BadDigest")
        self.server.blobs[oid] = body
        return ({},)

    def commit(self, body: bytes, repo_id: str, branch: str) -> tuple[Any, ...]:
        repo = self._repo(repo_id, write=True)
        tree = dict(self._tree(repo_id, branch)[1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                tree[value["path"]] = self.server.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del tree[value["path"]]
        oid = repo.commit(tree, branch)
        url = f"{self.server.endpoint}/{repo_id}/commit/{oid}"
        return ({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""},)

    def resolve(self, body: bytes, repo_id: str, revision: str, path: str) -> tuple[Any, ...]:
        oid, tree = self._tree(repo_id, revision)
        if path not in tree:
            raise _Refused(404, "EntryNotFound")
        headers = {"X-Repo-Commit": oid, "ETag": f'"{_identity(path, tree[path])["oid"]}"'}
        if _is_lfs(path):
            etag = f'"{_content_id(path, tree[path])}"'
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(tree[path]))}
        return tree[path], headers

    def collection(self, body: bytes) -> tuple[Any, ...]:
        asked = json.loads(body)
        slug = f"{asked['namespace']}/{re.sub(r'[^a-z0-9]+', '-', asked['title'].lower())}-0123456789abcdef01234567"
        if slug in self.server.collections:
            raise _Refused(409, "Conflict", slug=slug)
        self.server.collections[slug] = {
            "slug": slug, "title": asked["title"], "owner": {"name": asked["namespace"]}, "items": [],
            "lastUpdated": "2023-01-01T00:00:00.000Z", "private": asked["private"], "theme": "blue", "upvotes": 0,
            "position": 0,
        }  # fmt: skip
        return (self.server.collections[slug],)

    def show_collection(self, body: bytes, slug: str) -> tuple[Any, ...]:
        return (self.server.collections[slug],)

    def add_item(self, body: bytes, slug: str) -> tuple[Any, ...]:
        item = json.loads(body)["item"]
        collection = self.server.collections[slug]
        if item["id"] in [known["id"] for known in collection["items"]]:
            raise _Refused(409, "Conflict")
        position = len(collection["items"])
        collection["items"].append({"_id": str(position), "id": item["id"], "type": item["type"], "position": position})
        return (collection,)


def _is_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", ".png"))


def _identity(path: str, content: bytes) -> dict[str, Any]:
    """A file's git blob id, and for LFS files what they point at."""
    if not _is_lfs(path):
        return {"oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
    sha = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {len(content)}\n".encode()
    blob = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
    return {"oid": blob, "lfs": {"oid": sha, "size": len(content), "pointerSize": len(pointer)}}


def _content_id(path: str, content: bytes) -> str:
    identity = _identity(path, content)
    return identity["lfs"]["oid"] if "lfs" in identity else identity["oid"]
