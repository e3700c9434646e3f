"""A stand-in for the Hugging Face Hub: the part of its HTTP API that one model needs.

Paths and answers are those that huggingface_hub 2.4 asks for and reads.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator

TOKEN = "hf_test"


class Hub:
    """The content of the Hub: files by repository.

    Attributes:
        url: Address of the server.
        repositories: Content by path, by `USER/REPO`.
        visibility: "public" or "private", by `USER/REPO`.
    """

    def __init__(self, url: str):
        self.url = url
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.visibility: dict[str, str] = {}
        self.uploads: dict[str, bytes] = {}  # by SHA-256

    def commit(self, name: str, lines: list[dict]) -> str:
        """Takes the files of a commit; returns its id."""
        files = self.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.uploads[value["oid"]]
        return self.revision(name)

    def revision(self, name: str) -> str:
        digest = hashlib.sha1()
        for path, content in sorted(self.repositories[name].items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_):
        pass

    def _answer(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _not_found(self) -> None:
        self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    def do_GET(self):
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            files = self.hub.repositories.get(name)
            if files is None:
                return self._not_found()
            if "tree" in parts:
                listed = [
                    {"type": "file", "path": path, "size": len(content), "oid": _etag(content)}
                    for path, content in files.items()
                ]
                return self._answer(listed)
            siblings = [{"rfilename": path} for path in files]
            return self._answer({"id": name, "sha": self.hub.revision(name), "siblings": siblings})
        name, rest = "/".join(parts[:2]), parts[2:]
        if rest[:1] == ["resolve"]:
            content = self.hub.repositories[name].get("/".join(rest[2:]))
            if content is None:
                return self._answer({"error": "no file"}, 404, X_Error_Code="EntryNotFound")
            etag = f'"{_etag(content)}"'
            return self._answer(content, ETag=etag, X_Repo_Commit=self.hub.revision(name))
        return self._answer({})

    do_HEAD = do_GET

    def do_PUT(self):
        content = self._body()
        self.hub.uploads[hashlib.sha256(content).hexdigest()] = content
        self._answer({})

    def do_POST(self):
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid username or password."}, 401)
        parts = self.path.strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.repositories.setdefault(name, {})
            self.hub.visibility.setdefault(name, asked["visibility"])
            return self._answer({"url": f"{self.hub.url}/{name}", "name": name})
        if "preupload" in parts:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".h5") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._answer({"files": modes})
        if parts[-1] == "batch":
            objects = [
                one | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects})
        if "commit" in parts:
            name = "/".join(parts[2:4])
            commit = self.hub.commit(name, [json.loads(line) for line in body.splitlines()])
            url = f"{self.hub.url}/{name}/commit/{commit}"
            return self._answer({"commitUrl": url, "commitOid": commit, "success": True})
        return self._answer({})  # the check of the card's YAML

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Serves an empty Hub from 127.0.0.1 while the block lasts."""
    handler = type("Handler", (_Handler,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield handler.hub
        server.shutdown()
        thread.join()
