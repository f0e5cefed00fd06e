"""What a package index lists, and single members of its wheels, read by HTTP ranges instead of a download."""

from __future__ import annotations

import email
import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from deployer.errors import SourceUnreachable
from deployer.fetch.index import default_index
from deployer.frozen import dataclass

if TYPE_CHECKING:
    import httpx

_JSON = "application/vnd.pypi.simple.v1+json"
_TAIL = 1 << 17  # a wheel's table of contents is at its end, and with most builders the METADATA is too
_READ = 1 << 18
_SPAN = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class Listed:
    """One file of an index. `size` in bytes and `sha256` where the index tells them; `yanked` is the reason."""

    name: str
    url: str
    sha256: str | None = None
    size: int | None = None
    yanked: str | None = None


def listing(client: httpx.Client, index: str | None, package: str) -> tuple[Listed, ...]:
    """All files of `package`, from the simple API in JSON or HTML (PEP 503, 691); none for an unknown package.

    Raises SourceUnreachable when the index does not answer or is none.
    """
    import httpx

    base = (index or default_index()).rstrip("/")
    page = f"{base}/{re.sub(r'[-_.]+', '-', package).lower()}/"
    try:
        answer = client.get(page, headers={"Accept": f"{_JSON}, text/html;q=0.1"})
        if answer.status_code == 404:
            return ()
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SourceUnreachable(
            f"the package index does not answer for {package}: {_public(str(error))}",
            hint="check the network, or name a mirror with --index-url URL or PIP_INDEX_URL",
        ) from error
    where = str(answer.url)
    if not answer.headers.get("content-type", "").startswith(_JSON):
        reader = _Page(where)
        reader.feed(answer.text)
        return tuple(reader.files)
    try:
        return tuple(_listed(entry, where) for entry in answer.json()["files"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceUnreachable(
            f"{_public(page)} does not speak the index's protocol: {error!r}",
            hint="name a mirror with --index-url URL",
        ) from error


def find_file(client: httpx.Client, index: str | None, package: str, filename: str) -> Listed:
    """The file `filename` of `package`. Raises SourceUnreachable when the index does not answer or has it not."""
    for file in listing(client, index, package):
        if file.name == filename:
            return file
    raise SourceUnreachable(
        f"the package index has no {filename} of {package}",
        hint="the mirror may be behind; name another with --index-url URL",
    )


def local(wheelhouse: Path | None) -> tuple[Listed, ...]:
    """The wheels in a folder, as an index would list them; without hashes, which would mean to read them."""
    paths = sorted(wheelhouse.resolve().glob("*.whl")) if wheelhouse else []
    return tuple(Listed(path.name, path.as_uri(), size=path.stat().st_size) for path in paths)


def opened(client: httpx.Client, wheel: Listed) -> zipfile.ZipFile:
    """The wheel, of which only what is read travels. Raises OSError when that cannot be done."""
    try:
        if wheel.url.startswith("file:"):
            return zipfile.ZipFile(url2pathname(urlsplit(wheel.url).path))
        return zipfile.ZipFile(io.BufferedReader(Ranges(client, wheel.url, wheel.size), _READ))
    except zipfile.BadZipFile as error:
        if isinstance(error.__context__, OSError):  # zipfile hides why it could not read
            raise error.__context__ from None
        raise OSError(f"{_public(wheel.url)} is not a wheel") from error


def metadata(wheel: zipfile.ZipFile) -> Message:
    """The wheel's METADATA. Raises OSError when it has none that can be read."""
    for name in wheel.namelist():
        if re.fullmatch(r"[^/]+\.dist-info/METADATA", name):
            try:
                return email.message_from_bytes(wheel.read(name))
            except (zipfile.BadZipFile, ValueError) as error:
                raise OSError(f"its METADATA is damaged: {error}") from error
    raise OSError("it has no METADATA")


def licence(about: Message) -> str | None:
    """What METADATA says of the licence: the expression, a short name, or the classifiers."""
    if expression := about.get("License-Expression"):
        return str(expression).strip()
    text = str(about.get("License") or "").strip()
    classifiers = [
        c.split("::")[-1].strip() for c in about.get_all("Classifier", ()) if c.startswith("License ::")
    ]
    if text and text != "UNKNOWN" and "\n" not in text and len(text) <= 80:
        return text
    return ", ".join(classifiers) or (text.splitlines()[0].strip() if text not in ("", "UNKNOWN") else None)


def ranks(python: str, platform: str | None) -> dict[Tag, int]:
    """The tags of wheels that `python` takes on `platform`, 0 the best: `"3.11"`, `"x86_64-manylinux_2_28"`.

    For no platform, the tags that fit everywhere.
    """
    version = tuple(int(part) for part in python.split(".")[:2])
    platforms = []
    if platform:
        machine, _, libc = platform.partition("-")
        oldest = 5 if machine == "x86_64" else 17
        platforms.append(f"linux_{machine}")
        for minor in range(int(libc.rpartition("_")[2]), oldest - 1, -1):
            platforms.append(f"manylinux_2_{minor}_{machine}")
            if legacy := {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}.get(minor):
                platforms.append(f"{legacy}_{machine}")
    own = cpython_tags(version, platforms=platforms) if platforms else ()
    every = (
        *own,
        *compatible_tags(
            version, interpreter="cp" + "".join(map(str, version)), platforms=platforms or ["any"]
        ),
    )
    return {tag: rank for rank, tag in enumerate(dict.fromkeys(every))}


def choose(files: Iterable[Listed], name: str, version: str, ranks: Mapping[Tag, int]) -> Listed | None:
    """The wheel that an installer takes: of the best tag in `ranks`, and of these the highest build."""
    best: tuple[tuple[int, int], Listed] | None = None
    for file in files:
        try:
            package, found, build, fits = parse_wheel_filename(file.name)
        except InvalidWheelFilename:
            continue
        places = [ranks[tag] for tag in fits if tag in ranks]
        if not places or (package, str(found)) != (name, version):
            continue
        order = min(places), -(build[0] if build else -1)
        if best is None or order < best[0]:
            best = order, file
    return best[1] if best else None


class Ranges(io.RawIOBase):
    """A file at `url`, read in ranges; `size` in bytes is asked for where it is not known.

    Raises OSError when the server has no ranges or stops answering.
    """

    def __init__(self, client: httpx.Client, url: str, size: int | None = None) -> None:
        self._client, self._url, self._at = client, url, 0
        self._tail: bytes | None = None
        self.size = self._ask(0, 0)[1] if size is None else size

    def _ask(self, first: int, last: int) -> tuple[bytes, int]:
        import httpx

        wanted = last - first + 1
        ask = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        try:
            with self._client.stream("GET", self._url, headers=ask) as answer:
                span = _SPAN.fullmatch(answer.headers.get("content-range", ""))
                if answer.status_code != 206 or not span or int(span[1]) != first:
                    raise OSError(f"{_public(self._url)} answers HTTP {answer.status_code} to a range")
                content = b""
                for piece in answer.iter_raw():
                    content += piece
                    if len(content) > wanted:  # some send on to the end of the file
                        break
        except httpx.HTTPError as error:
            raise OSError(f"{_public(self._url)}: {error}") from error
        if len(content) < wanted:
            raise OSError(f"{_public(self._url)} gives {len(content)} bytes of {wanted}")
        return content[:wanted], int(span[3])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if at < 0:
            raise OSError(22, "before the beginning")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        last = min(self._at + len(buffer), self.size) - 1
        if last < self._at:
            return 0
        start = max(self.size - _TAIL, 0)
        if self._at >= start:
            if self._tail is None:
                self._tail = self._ask(start, self.size - 1)[0]
            content = self._tail[self._at - start : last - start + 1]
        else:
            content, _ = self._ask(self._at, last)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def _listed(entry: dict[str, Any], page: str) -> Listed:
    yanked, size = entry.get("yanked"), entry.get("size")
    return Listed(
        name=entry["filename"],
        url=urljoin(page, entry["url"]),
        sha256=entry.get("hashes", {}).get("sha256"),
        size=size if isinstance(size, int) else None,
        yanked=(yanked if isinstance(yanked, str) else "no reason given") if yanked else None,
    )


def _public(text: str) -> str:
    """`text` without the name and password that an address in it may carry."""
    return re.sub(r"//[^/@\s]+@", "//", text)


class _Page(HTMLParser):
    """The links of a simple page in HTML."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.files: list[Listed] = []
        self._page = page
        self._link: dict[str, str | None] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._link = dict(attrs)

    def handle_data(self, data: str) -> None:
        if self._link and self._link.get("href") and data.strip():
            url, fragment = urldefrag(urljoin(self._page, self._link["href"] or ""))
            yanked = (self._link["data-yanked"] or "no reason given") if "data-yanked" in self._link else None
            sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
            self.files.append(Listed(data.strip(), url, sha256, None, yanked))
            self._link = None
