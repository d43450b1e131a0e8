"""The part of the hub's HTTP interface that a push uses, served on this machine; what it was sent is kept in memory."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

TOKEN = "hf_stand_in"


@dataclass
class Repository:
    """A model repository.

    Args:
        branches: branch -> path -> sha256 of the content.
        card: metadata, as model_info shows them.
    """

    private: bool = False
    card: dict[str, Any] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=lambda: {"main": {".gitattributes": ""}})
    messages: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """What the stand-in has, and what it is to answer.

    Args:
        objects: sha256 -> content, of everything that was uploaded.
        uploads: sha256 of each large file, in the order in which they arrived.
        refuse: (method, part of the path) -> status; 0 = the connection is closed without an answer.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    refuse: dict[tuple[str, str], int] = field(default_factory=dict)
    endpoint: str = ""

    def add(self, name: str, files: dict[str, bytes], **more: Any) -> None:
        """A repository with large files."""
        self.objects |= {sha(content): content for content in files.values()}
        hashes = {path: sha(content) for path, content in files.items()}
        self.repositories[name] = Repository(branches={"main": hashes}, **more)

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        """Path -> content of a branch, without .gitattributes."""
        hashes = self.repositories[name].branches[branch]
        return {path: self.objects[digest] for path, digest in hashes.items() if digest}

    def commit(self, name: str, branch: str) -> str:
        """40 digits that change with the branch's content."""
        return hashlib.sha1(json.dumps(self.repositories[name].branches[branch]).encode()).hexdigest()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def hub_stand_in() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(200)

    def do_GET(self) -> None:
        found = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/([\w.-]+))?(?:\?.*)?", self.path)
        repository = self.hub.repositories.get(found[1]) if found else None
        if self._is_refused("GET"):
            return
        if found is None or repository is None:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return
        branch = found[2] if found[2] in repository.branches else "main"
        siblings = [
            {"rfilename": path, "size": 1, "lfs": {"sha256": digest, "size": 1, "pointerSize": 1} if digest else None}
            for path, digest in repository.branches[branch].items()
        ]
        about = {"id": found[1], "private": repository.private, "sha": self.hub.commit(found[1], branch)}
        self._answer(200, {**about, "siblings": siblings, "cardData": repository.card, "tags": []})

    def do_PUT(self) -> None:
        content, digest = self._content(), self.path.rpartition("/")[2]
        if self._is_refused("PUT"):
            return
        assert sha(content) == digest, "the upload is the file that was announced"
        self.hub.objects[digest] = content
        self.hub.uploads.append(digest)
        self._answer(200)

    def do_POST(self) -> None:
        content = self._content()
        if self._is_refused("POST"):
            return
        if self.path != "/api/validate-yaml" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401)
            return
        parts = self.path.strip("/").split("/")
        if self.path == "/api/repos/create":
            self._create(json.loads(content))
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif parts[-1] == "batch":
            self._batch(json.loads(content))
        elif parts[4] == "branch":
            branches = self.hub.repositories["/".join(parts[2:4])].branches
            branches.setdefault(parts[5], dict(branches["main"]))
            self._answer(200, {})
        elif parts[4] == "preupload":
            files = json.loads(content)["files"]
            modes = [{"path": one["path"], "uploadMode": _mode(one["path"]), "shouldIgnore": False} for one in files]
            self._answer(200, {"files": modes})
        elif parts[4] == "commit":
            self._commit("/".join(parts[2:4]), parts[5], content)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
        is_new = name not in self.hub.repositories
        if is_new:
            private = asked.get("private") or asked.get("visibility") == "private"
            self.hub.repositories[name] = Repository(private=bool(private))
        self._answer(200 if is_new else 409, {"url": f"{self.hub.endpoint}/{name}", "error": "exists"})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects: list[dict[str, Any]] = []
        for one in asked["objects"]:
            is_known = one["oid"] in self.hub.objects
            upload = {"upload": {"href": f"{self.hub.endpoint}/objects/{one['oid']}"}}
            objects.append({**one, **({} if is_known else {"actions": upload})})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, branch: str, content: bytes) -> None:
        repository, lines = self.hub.repositories[name], [json.loads(line) for line in content.splitlines()]
        header = next(one["value"] for one in lines if one["key"] == "header")
        if header.get("parentCommit") not in (None, self.hub.commit(name, branch)):
            self._answer(412, {"error": "A commit has happened since"})
            return
        for one in lines:
            if one["key"] == "lfsFile":
                assert one["value"]["oid"] in self.hub.objects, "a commit names only what was uploaded"
                repository.branches[branch][one["value"]["path"]] = one["value"]["oid"]
            elif one["key"] == "file":
                small = base64.b64decode(one["value"]["content"])
                self.hub.objects[sha(small)] = small
                repository.branches[branch][one["value"]["path"]] = sha(small)
        repository.messages.append(header["summary"])
        oid = self.hub.commit(name, branch)
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}"})

    def _is_refused(self, method: str) -> bool:
        for (kind, part), status in self.hub.refuse.items():
            if kind == method and part in self.path:
                if status:
                    self._answer(status, {"error": "refused"})
                else:
                    self.close_connection = True
                return True
        return False

    def _content(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        if status == 401:
            headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def _mode(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", "tokenizer.json")) else "regular"
