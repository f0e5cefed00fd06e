"""Where a Python package index keeps a file, with the hash the index gives for it."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import urldefrag, urljoin

from deployer.errors import SourceUnreachable

if TYPE_CHECKING:
    import httpx

_JSON = "application/vnd.pypi.simple.v1+json"


def default_index() -> str:
    """The index that pip uses here: its configuration, else its built-in default."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if asked.returncode == 0 and asked.stdout.strip():
        return asked.stdout.strip()
    try:
        from pip._internal.models.index import PyPI
    except ImportError as error:
        raise SourceUnreachable(
            "no package index is known: this Python has no pip", hint="name one with --index-url URL"
        ) from error
    return str(PyPI.simple_url)


def find_file(client: httpx.Client, index: str | None, package: str, filename: str) -> tuple[str, str | None]:
    """The address and, if the index tells it, the SHA-256 of `filename` of `package`.

    Reads the simple API in JSON or HTML. Raises SourceUnreachable when the index does not answer or
    does not have the file.
    """
    import httpx

    base = (index or default_index()).rstrip("/")
    page = f"{base}/{re.sub(r'[-_.]+', '-', package).lower()}/"
    try:
        answer = client.get(page, headers={"Accept": f"{_JSON}, text/html;q=0.1"})
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SourceUnreachable(
            f"the package index does not answer for {package}: {error}",
            hint="check the network, or name a mirror with --index-url URL or PIP_INDEX_URL",
        ) from error
    if answer.headers.get("content-type", "").startswith(_JSON):
        try:
            for entry in answer.json()["files"]:
                if entry["filename"] == filename:
                    return urljoin(str(answer.url), entry["url"]), entry.get("hashes", {}).get("sha256")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceUnreachable(
                f"{page} does not speak the index's protocol: {error!r}",
                hint="name a mirror with --index-url URL",
            ) from error
    else:
        reader = _Links()
        reader.feed(answer.text)
        for href, text in reader.links:
            if text == filename:
                url, fragment = urldefrag(urljoin(str(answer.url), href))
                return url, fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
    raise SourceUnreachable(
        f"the package index has no {filename} of {package}",
        hint="the mirror may be behind; name another with --index-url URL",
    )


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self._href: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._href = dict(attrs).get("href")

    def handle_data(self, data: str) -> None:
        if self._href and data.strip():
            self.links.append((self._href, data.strip()))
            self._href = None
