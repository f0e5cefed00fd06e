"""Real HTTP servers on 127.0.0.1 that behave well or badly, as they are told."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

PIECE = 16 << 10
JSON_INDEX = "application/vnd.pypi.simple.v1+json"


@dataclass
class Seen:
    """One request that arrived; `sent` grows while its answer is written."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    sent: int = 0

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class Manner:
    """How a server behaves.

    `statuses` are used up, one for each request, before anything else is done; `status` is for ever.
    `cut` is after how many bytes of one answer the connection breaks; `lie` is added to Content-Length;
    `instead` is sent with 200 in place of what was asked for; `pause` is slept after each 16 KiB. `retry_after` goes
    with error statuses. `wrong` are offsets in files, used up: the next answer that holds this byte gives another one.
    `stalls` is how many answers give nothing any more after `stall` bytes; `trickles` is how many come in drops from
    there on, 500 bytes every 20 ms. `change` is (after how many answers, path,
    content): from then on, the file is another one.
    """

    ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    status: int | None = None
    cut: int | None = None
    lie: int = 0
    instead: bytes | None = None
    chunked: bool = False
    gzip_if_asked: bool = False
    pause: float = 0.0
    retry_after: str | None = None
    wrong: list[int] = field(default_factory=list)
    stalls: int = 0
    stall: int = 0
    trickles: int = 0
    change: tuple[int, str, bytes] | None = None


class Handler(BaseHTTPRequestHandler):
    """A request that is answered by the `Server` it arrived at."""

    protocol_version = "HTTP/1.1"
    owner: Server

    def log_message(self, format: str, *args: Any) -> None:
        return None

    def answer(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        self.seen = Seen(self.command, self.path, headers, body)
        self.owner.seen.append(self.seen)
        self.owner.answer(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.flush()

    def whole(self, status: int, body: bytes, kind: str = "application/json", **more: str) -> None:
        headers = {key.replace("_", "-"): value for key, value in more.items()}
        self.start(status, {"Content-Type": kind, "Content-Length": str(len(body)), **headers})
        self.wfile.write(body)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def hang_up(self) -> None:
        """Breaks the connection in the middle of an answer."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # clients are killed in some tests
            super().handle_error(request, client_address)


class Server:
    """A server of one test; `seen` are the requests in the order in which they came."""

    def __init__(self, reply: Callable[[Handler], None] | None = None) -> None:
        self.seen: list[Seen] = []
        self._reply = reply
        self._http = _Threads(("127.0.0.1", 0), type("Bound", (Handler,), {"owner": self}))
        self.port: int = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def answer(self, handler: Handler) -> None:
        assert self._reply is not None
        self._reply(handler)

    def asked(self, path: str) -> list[Seen]:
        """The requests for `path`."""
        return [seen for seen in self.seen if unquote(urlsplit(seen.path).path) == path]

    @property
    def sent(self) -> int:
        """Bytes of bodies that were sent so far."""
        return sum(seen.sent for seen in list(self.seen))

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class FileServer(Server):
    """Files from memory, by path; `redirects` sends elsewhere; `challenge` is how it asks who is there."""

    def __init__(self, files: Mapping[str, bytes] | None = None, manner: Manner | None = None) -> None:
        super().__init__()
        self.files = dict(files or {})
        self.redirects: dict[str, str] = {}
        self.challenge: str | None = None
        self.manner = manner or Manner()
        self._turn, self._answers, self._over = threading.Lock(), 0, threading.Event()

    def __enter__(self) -> FileServer:
        super().__enter__()
        return self

    def answer(self, handler: Handler) -> None:
        manner, path = self.manner, unquote(urlsplit(handler.path).path)
        if self.challenge and "authorization" not in handler.seen.headers:
            return handler.whole(401, b"{}", WWW_Authenticate=self.challenge)
        more = {"Retry_After": manner.retry_after} if manner.retry_after else {}
        with self._turn:
            status = manner.statuses.pop(0) if manner.statuses else manner.status
            if manner.change and manner.change[0] == self._answers:
                self.files[manner.change[1]] = manner.change[2]
            self._answers += 1
        if status:
            return handler.whole(status, b"{}", **more)
        if path in self.redirects:
            return handler.whole(302, b"", Location=self.redirects[path])
        if manner.instead is not None:
            self._send(handler, 200, manner.instead, {"Content-Type": "text/html"})
        elif path in self.files:
            self._file(handler, self.files[path])
        else:
            handler.whole(404, b"{}")
        return None

    def _file(self, handler: Handler, content: bytes) -> None:
        asked = handler.seen.range
        if self.manner.gzip_if_asked and "gzip" in handler.seen.headers.get("accept-encoding", ""):
            import gzip

            self._send(handler, 200, gzip.compress(content), {"Content-Encoding": "gzip"})
        elif not asked or not self.manner.ranges:
            self._send(handler, 200, self._flipped(content, 0), {"ETag": _etag(content)})
        else:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(content)), len(content) - 1)
            if start >= len(content):
                handler.whole(416, b"", Content_Range=f"bytes */{len(content)}")
                return
            where = {"Content-Range": f"bytes {start}-{end}/{len(content)}", "ETag": _etag(content)}
            self._send(handler, 206, self._flipped(content[start : end + 1], start), where)

    def _flipped(self, body: bytes, start: int) -> bytes:
        with self._turn:
            for at in [at for at in self.manner.wrong if start <= at < start + len(body)]:
                self.manner.wrong.remove(at)
                body = body[: at - start] + bytes([body[at - start] ^ 0xFF]) + body[at - start + 1 :]
        return body

    def _send(self, handler: Handler, status: int, body: bytes, headers: dict[str, str]) -> None:
        manner = self.manner
        if manner.chunked:
            handler.start(status, {**headers, "Transfer-Encoding": "chunked"})
        else:
            handler.start(status, {**headers, "Content-Length": str(len(body) + manner.lie)})
        end = len(body) if manner.cut is None else min(manner.cut, len(body))
        if manner.lie < 0 and not manner.chunked:
            end += manner.lie
        with self._turn:
            stalls = manner.stalls > 0 and end > manner.stall
            manner.stalls -= stalls
            trickles = manner.trickles > 0 and end > manner.stall
            manner.trickles -= trickles
        if trickles:
            return self._trickle(handler, body)
        for start in range(0, end, PIECE):
            piece = body[start : min(start + PIECE, end)]
            handler.chunk(piece) if manner.chunked else handler.wfile.write(piece)
            handler.seen.sent += len(piece)
            if stalls and handler.seen.sent >= manner.stall:
                self._over.wait(30)
                return handler.hang_up()
            if manner.pause:
                time.sleep(manner.pause)
        if end < len(body) or manner.lie:
            handler.hang_up()
        elif manner.chunked:
            handler.wfile.write(b"0\r\n\r\n")
        return None

    def _trickle(self, handler: Handler, body: bytes) -> None:
        """A line that lives and gives next to nothing, until the client has enough of it."""
        handler.wfile.write(body[: self.manner.stall])
        handler.seen.sent = self.manner.stall
        while handler.seen.sent < len(body) and not self._over.wait(0.02):
            handler.wfile.write(body[handler.seen.sent : handler.seen.sent + 500])
            handler.wfile.flush()
            handler.seen.sent = min(handler.seen.sent + 500, len(body))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        super().__exit__(kind, error, trace)


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"'


def git_sha1(content: bytes) -> str:
    """The name that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Hub(FileServer):
    """A model hub with one repository; its LFS files come from `storage`, as they do in the real one.

    `about` is what the listing says besides the files; `gate` is a token without which no file is given.
    `need` is a token without which nothing is answered; `wrong` are files whose bytes differ from what the
    listing says.
    """

    def __init__(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        sha: str = "c0ffee" + "0" * 34,
        lfs: Sequence[str] = (".safetensors", ".gguf", ".bin"),
        storage: FileServer | None = None,
        need: str | None = None,
        refusal: int = 401,
    ) -> None:
        super().__init__()
        self.name, self.sha, self.need, self.refusal = name, sha, need, refusal
        self._lfs, self._storage = tuple(lfs), storage
        self.about: dict[str, Any] = {}
        self.gate: str | None = None
        self.offer(sha, files)

    def __enter__(self) -> Hub:
        super().__enter__()
        return self

    def offer(self, sha: str, files: Mapping[str, bytes]) -> None:
        """Makes `files` the newest commit; those of earlier ones stay."""
        self.sha, self.siblings = sha, []
        for path, content in files.items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git_sha1(content)}
            where = self.where(path)
            self.files[where] = content
            if path.endswith(self._lfs):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content)}
                if self._storage:
                    self._storage.files[f"/blobs/{digest}"] = content
                    self.redirects[where] = f"{self._storage.url}/blobs/{digest}"
            self.siblings.append(entry)

    def where(self, path: str) -> str:
        return f"/{self.name}/resolve/{self.sha}/{path}"

    def answer(self, handler: Handler) -> None:
        if self.need and handler.seen.headers.get("authorization") != f"Bearer {self.need}":
            return handler.whole(self.refusal, b'{"error": "no"}')
        target = urlsplit(handler.path)
        if self.gate and "/resolve/" in target.path:
            said = handler.seen.headers.get("authorization")
            if said != f"Bearer {self.gate}":
                status = 403 if said else 401
                return handler.whole(status, b"", X_Error_Code="GatedRepo")
        prefix = f"/api/models/{self.name}/revision/"
        if target.path.startswith(prefix) and not self.manner.statuses and not self.manner.status:
            if unquote(target.path.removeprefix(prefix)) not in ("main", "refs/pr/1", self.sha):
                return handler.whole(404, b'{"error": "no such revision"}')
            assert "/" not in target.path.removeprefix(prefix), "a revision is one part of the path"
            assert target.query == "blobs=true"
            answer = {"sha": self.sha, "siblings": self.siblings, **self.about}
            return handler.whole(200, json.dumps(answer).encode())
        return super().answer(handler)


class ModelScope(FileServer):
    """ModelScope's API with one model, as its client (modelscope-hub 0.5.1) and recorded answers of the site have it.

    Large files are redirected to `storage`; small ones come from here, where ranges are ignored. `need` is a token
    without which nothing is answered, `gate` one without which no file is given. `head` is what the listing says of
    the commit.
    """

    COMMIT, OLDER = "83ee97c6" + "1" * 32, "f194f509" + "2" * 32

    def __init__(self, name: str, files: Mapping[str, bytes], *, storage: FileServer | None = None) -> None:
        super().__init__()
        self.name, self._storage, self.content = name, storage, dict(files)
        self.need: str | None = None
        self.gate: str | None = None
        self.head: dict[str, Any] = {"Id": "", "ShortId": self.COMMIT[:8]}
        self.changed = set(files)  # files of the newest commit
        self.unhashed: set[str] = set()
        self.manner.ranges = False

    def __enter__(self) -> ModelScope:
        super().__enter__()
        return self

    def answer(self, handler: Handler) -> None:
        target = urlsplit(handler.path)
        query = dict(parse_qsl(target.query))
        said = handler.seen.headers
        token = {said.get("authorization", "").removeprefix("Bearer "), said.get("cookie", "")[len("m_session_id=") :]}
        prefix = f"/api/v1/models/{self.name}"
        if self.manner.statuses or self.manner.status:
            return super().answer(handler)
        if self.need and token != {self.need}:
            return self._say(handler, None, 403, 10010205002, "access denied")
        if target.path == f"{prefix}/repo/files":
            return self._say(handler, self._listing(query))
        if target.path == f"{prefix}/revisions":
            known = {"Branches": [{"Revision": "master"}], "Tags": [{"Revision": "v1"}]}
            return self._say(handler, {"RevisionMap": known})
        if target.path == prefix:
            return self._say(handler, {"Name": self.name, "License": "Apache License 2.0", "Visibility": 5})
        if target.path == f"{prefix}/repo" and self._is(query["Revision"]) and query["FilePath"] in self.content:
            if self.gate and token != {self.gate}:
                return self._say(handler, None, 403, 10010205002, "apply for access")
            return self._give(handler, self.content[query["FilePath"]])
        return self._say(handler, None, 404, 10010205001, "record not found")

    def _is(self, revision: str) -> bool:
        return revision in ("master", "v1", self.COMMIT)

    def _say(self, handler: Handler, data: Any, status: int = 200, code: int = 200, message: str = "success") -> None:
        body = {"Code": code, "Data": data, "Message": message, "RequestId": "1", "Success": code == 200}
        handler.whole(status, json.dumps(body).encode())

    def _listing(self, query: Mapping[str, str]) -> dict[str, Any]:
        if not self._is(query["Revision"]):
            return {"Files": None, "IsVisual": 0, "LatestCommitter": None}
        deep = query.get("Recursive") == "True"  # another spelling is ignored
        entries: list[dict[str, Any]] = []
        for path, content in self.content.items():
            folder, _, name = path.rpartition("/")
            if folder and folder not in [entry["Path"] for entry in entries]:
                entries.append({"Path": folder, "Name": folder, "Type": "tree", "Size": 0, "Sha256": ""})
            if folder and not deep:
                continue
            entry = {
                "Path": path, "Name": name, "Type": "blob", "Size": len(content), "IsLFS": len(content) > 100_000,
                "Sha256": "" if path in self.unhashed else hashlib.sha256(content).hexdigest(),
                "Revision": self.COMMIT if path in self.changed else self.OLDER,
            }  # fmt: skip
            entries.append(entry)
        return {"Files": entries, "IsVisual": 0, "LatestCommitter": self.head}

    def _give(self, handler: Handler, content: bytes) -> None:
        if self._storage is None or len(content) <= 100_000:
            return self._file(handler, content)
        digest = hashlib.sha256(content).hexdigest()
        self._storage.files.setdefault(f"/lfs/{digest}", content)
        return handler.whole(302, b"", Location=f"{self._storage.url}/lfs/{digest}?auth_key=1")


class PackageIndex(FileServer):
    """A simple package index with one file of one package, in JSON or in HTML."""

    def __init__(
        self, package: str, filename: str, content: bytes, *, html: bool = False, with_hash: bool = True
    ) -> None:
        super().__init__({f"/files/{filename}": content})
        self._page, self._filename, self._html = f"/simple/{package}/", filename, html
        self.digest = hashlib.sha256(content).hexdigest() if with_hash else None

    @property
    def index(self) -> str:
        return f"{self.url}/simple"

    def __enter__(self) -> PackageIndex:
        super().__enter__()
        return self

    def answer(self, handler: Handler) -> None:
        if handler.path != self._page or self.manner.instead is not None:
            super().answer(handler)
        elif self._html:
            mark = f"#sha256={self.digest}" if self.digest else ""
            page = (
                "<!DOCTYPE html><html><body><h1>Links</h1>"
                '<a href="../../files/other-1.0.tar.gz#sha256=00">other-1.0.tar.gz</a><br/>'
                f'<a href="../../files/{self._filename}{mark}" data-requires-python="&gt;=3.8">'
                f"\n  {self._filename}\n</a></body></html>"
            )
            handler.whole(200, page.encode(), "text/html; charset=utf-8")
        else:
            hashes = {"sha256": self.digest} if self.digest else {}
            files = [
                {"filename": "other-1.0.tar.gz", "url": "../../files/other-1.0.tar.gz", "hashes": {}},
                {"filename": self._filename, "url": f"../../files/{self._filename}", "hashes": hashes},
            ]
            value = {"meta": {"api-version": "1.0"}, "name": "x", "files": files}
            handler.whole(200, json.dumps(value).encode(), JSON_INDEX)


def wheel(files: Mapping[str, bytes], package: str = "some_model", version: str = "1.0") -> bytes:
    """A wheel that carries `files`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        info = f"{package}-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


def wait_until(fact: Callable[[], object], seconds: float = 20.0) -> None:
    """Returns when `fact()` holds; fails when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.01)


def unused_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
