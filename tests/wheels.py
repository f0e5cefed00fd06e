"""A package index with small real wheels, made in the test and served with ranges, and the pinned uv."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from deployer.fetch import Web, download
from deployer.fetch.wheel import find_file
from deployer.images import recipe as recipes
from deployer.progress import Silent
from tests.servers import JSON_INDEX, Handler, Server

CACHE = Path(os.environ.get("DEPLOYER_TEST_CACHE", Path.home() / ".cache/deployer-tests"))


@dataclass
class Wheel:
    """A wheel of one file; `headers` are further lines of its METADATA, `padding` random bytes at its beginning."""

    name: str
    version: str
    requires: Iterable[str] = ()
    headers: Iterable[str] = ()
    tag: str = "py3-none-any"
    padding: int = 0
    yanked: bool | str = False
    content: bytes = field(init=False)

    def __post_init__(self) -> None:
        buffer = io.BytesIO()
        folder = self.name.replace("-", "_")
        info = f"{folder}-{self.version}.dist-info"
        lines = ["Metadata-Version: 2.4", f"Name: {self.name}", f"Version: {self.version}", *self.headers]
        lines += [f"Requires-Dist: {demand}" for demand in self.requires]
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, content in (
                (f"{folder}/data", os.urandom(self.padding)),
                (f"{folder}/__init__.py", f"version = {self.version!r}\n".encode()),
                (f"{info}/METADATA", ("\n".join(lines) + "\n\nAbout it.\n").encode()),
                (f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {self.tag}\n".encode()),
                (f"{info}/RECORD", b""),
            ):
                archive.writestr(path, content)
        self.content = buffer.getvalue()

    @property
    def file(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-{self.tag}.whl"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.file).write_bytes(self.content)
        return folder / self.file


class WheelIndex(Server):
    """A simple index of `wheels` in JSON or HTML.

    `ranges` may be off; `beyond` makes answers to ranges run on to the end of the file; `told` is whether sizes and
    hashes are in the listing; `password` is one without which nothing is answered, as `user:password` in base64.
    """

    def __init__(self, *wheels: Wheel, html: bool = False, told: bool = True) -> None:
        super().__init__()
        self.wheels = list(wheels)
        self.html, self.told = html, told
        self.ranges, self.beyond = True, False
        self.password: str | None = None

    @property
    def index(self) -> str:
        return f"{self.url}/simple"

    def __enter__(self) -> WheelIndex:
        super().__enter__()
        return self

    def answer(self, handler: Handler) -> None:
        if self.password and handler.seen.headers.get("authorization") != f"Basic {self.password}":
            return handler.whole(401, b"no", WWW_Authenticate='Basic realm="here"')
        path = unquote(urlsplit(handler.path).path)
        if page := re.fullmatch(r"/simple/([^/]+)/", path):
            return self._page(handler, [w for w in self.wheels if w.name == page[1]])
        for wheel in self.wheels:
            if path == f"/files/{wheel.file}":
                return self._file(handler, wheel.content)
        return handler.whole(404, b"{}")

    def _page(self, handler: Handler, wheels: list[Wheel]) -> None:
        if not wheels:
            return handler.whole(404, b"{}")
        if not self.html:
            value = {
                "meta": {"api-version": "1.1"},
                "name": wheels[0].name,
                "versions": sorted({w.version for w in wheels}),
                "files": [
                    {"filename": w.file, "url": f"../../files/{w.file}", "yanked": w.yanked}
                    | {"hashes": {"sha256": w.sha256} if self.told else {}}
                    | ({"size": len(w.content)} if self.told else {})
                    for w in wheels
                ],
            }
            return handler.whole(200, json.dumps(value).encode(), JSON_INDEX)
        lines = ["<!DOCTYPE html><html><body>"]
        for w in wheels:
            mark = f"#sha256={w.sha256}" if self.told else ""
            yanked = "" if w.yanked is False else f' data-yanked="{w.yanked if w.yanked is not True else ""}"'
            lines.append(f'<a href="../../files/{w.file}{mark}"{yanked}>{w.file}</a><br/>')
        return handler.whole(200, "\n".join(lines).encode(), "text/html; charset=utf-8")

    def _file(self, handler: Handler, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", handler.seen.range or "")
        status, headers, body = 200, {"Accept-Ranges": "bytes"} if self.ranges else {}, content
        if asked and self.ranges:
            first = int(asked[1]) if asked[1] else max(len(content) - int(asked[2]), 0)
            last = min(int(asked[2]) if asked[1] and asked[2] else len(content) - 1, len(content) - 1)
            last = len(content) - 1 if self.beyond else last
            if first > last:
                return handler.whole(416, b"", Content_Range=f"bytes */{len(content)}")
            status, body = 206, content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        handler.start(status, {**headers, "Content-Length": str(len(body))})
        if handler.command != "HEAD":
            handler.wfile.write(body)
            handler.seen.sent += len(body)
        return None


def uv_wheel() -> tuple[Path, str]:
    """The recipes' own pinned wheel of uv and its SHA-256, fetched once for all tests."""
    source = next(s for s in recipes.uv() if s.platform == "linux/amd64")
    path = CACHE / "sources" / source.file
    if not path.exists():
        with Web().client() as client:
            url = find_file(client, None, "uv", source.file).url
            download(client, url, path, sha256=source.sha256, size=source.size, progress=Silent())
    return path, source.sha256
