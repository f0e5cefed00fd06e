"""The files of the pages over HTTP: headers, caching, nothing else; and the vendored libraries."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from deployer.gateway import pages
from tests.servers import unused_port, wait_until

VENDOR = pages.FOLDER / "vendor"
BUDGET = 500_000  # bytes of all that a browser may load, uncompressed


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    port = unused_port()
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=pages.routes()), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as made:
        yield made
    server.should_exit = True
    thread.join(10)


def loaded(page: httpx.Response) -> list[str]:
    return re.findall(r'(?:href|src)="(page/[^"]+)"', page.text)


@pytest.mark.parametrize("path", ["/", "/status"])
def test_a_page_and_all_that_it_loads(client: httpx.Client, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert len(loaded(page)) >= 5
    for name in loaded(page):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["content-type"] == pages.TYPES[Path(name).suffix]


@pytest.mark.parametrize("path", ["/", "/status", "asset"])
def test_every_answer_is_guarded(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/{loaded(client.get('/'))[0]}" if path == "asset" else path)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert (
        policy["default-src"]
        == policy["frame-ancestors"]
        == policy["base-uri"]
        == policy["form-action"]
        == "'none'"
    )
    assert {policy[kind] for kind in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-dns-prefetch-control"] == "off"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_what_the_browser_has_is_not_sent_again(client: httpx.Client, coding: str) -> None:
    accept = {"Accept-Encoding": coding}
    whole = client.get("/", headers=accept)
    tag = whole.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = client.get("/", headers={**accept, "If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
        assert again.headers["content-security-policy"] == pages.POLICY
    assert client.get("/", headers={**accept, "If-None-Match": '"other"'}).status_code == 200


def test_head_says_what_get_would_send(client: httpx.Client) -> None:
    got, head = client.get("/"), client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-length", "content-type", "content-security-policy"):
        assert head.headers[name] == got.headers[name]


def test_packed_where_that_is_understood(client: httpx.Client) -> None:
    def take(accepted: str) -> httpx.Response:
        return client.get("/", headers={"Accept-Encoding": accepted})

    plain = take("identity")
    assert "content-encoding" not in plain.headers
    assert plain.headers["vary"] == "Accept-Encoding"
    for accepted in ("gzip", "br, gzip;q=0.5", "GZIP", "*", "deflate, *;q=0.1"):
        packed = take(accepted)
        assert packed.headers["content-encoding"] == "gzip", accepted
        assert packed.headers["etag"] != plain.headers["etag"]
        assert packed.content == plain.content
        assert int(packed.headers["content-length"]) < len(plain.content)
    for accepted in ("", "br", "gzip;q=0", "gzip;q=0.000, br"):
        assert "content-encoding" not in take(accepted).headers, accepted


def test_nothing_but_the_listed_files(client: httpx.Client) -> None:
    base = loaded(client.get("/"))[0].rpartition("/")[0]
    other = base[:-1] + ("0" if base[-1] != "0" else "1")
    for path in (
        "/index.html", "/page", "/page/", f"/{base}", f"/{base}/", f"/{base}/index.html", f"/{base}/nothing.js",
        f"/{base}/../pages.py", f"/{base}/%2e%2e/pages.py", f"/{base}/..%2fpages.py", f"/{base}/%2fetc/passwd",
        f"/{base}//chat.js", f"/{base}/vendor/", f"/{base}/vendor/lock.tsv", f"/{base}/vendor/marked.LICENSE",
        f"/{other}/chat.js", "/page/chat.js", "/status/", "/pages.py", f"/{base}/chat.js%00.css",
    ):  # fmt: skip
        # httpx would tidy the path up: it goes out as it stands
        answer = client.send(client.build_request("GET", httpx.URL(client.base_url, raw_path=path.encode())))
        assert answer.status_code in (307, 404), path
        assert answer.status_code == 404 or answer.headers["location"].endswith(("/status", "/page"))
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client.request(method, "/").status_code == 405


def test_modules_and_styles_name_only_files_that_there_are() -> None:
    for path in sorted(pages.FOLDER.glob("*.*s")):
        text = path.read_text()
        for name in re.findall(
            r"""(?:from|import|import\()\s*["'](\.[^"']+)["']|url\(["']?([^"')]+)""", text
        ):
            assert (path.parent / (name[0] or name[1])).is_file(), f"{path.name}: {name}"
        assert text.count("\n") <= 400, path.name


def test_all_of_it_is_small() -> None:
    files = [path.read_bytes() for path in pages.FOLDER.rglob("*") if path.suffix in pages.TYPES]
    assert sum(map(len, files)) < BUDGET
    assert sum(len(gzip.compress(content, 9)) for content in files) < BUDGET / 3


def test_vendored_files_are_those_of_the_lock() -> None:
    head, *lines = (VENDOR / "lock.tsv").read_text().splitlines()
    assert head.split("\t") == ["package", "version", "inside", "file", "sha256"]
    rows = [line.split("\t") for line in lines]
    for package, version, _, file, digest in rows:
        content = (VENDOR / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, f"{file}: make vendor"
        if file.endswith(".js"):
            assert version in content[:600].decode(), f"{file} says another version"
        assert [row for row in rows if row[0] == package and row[3].endswith(".LICENSE")], (
            f"{package}: no licence"
        )
    assert {row[3] for row in rows} | {"lock.tsv"} == {path.name for path in VENDOR.iterdir()}


def test_the_folder_alone_is_enough(tmp_path: Path) -> None:
    """As in the gateway's image."""
    shutil.copytree(pages.FOLDER.parent, tmp_path / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from gateway.pages import routes; print(*[route.path for route in routes()][:2])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("/ /status\n", "")
