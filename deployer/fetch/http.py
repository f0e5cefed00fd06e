"""One file over HTTP: resumed after a kill, hashed while it streams, renamed when it is right."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from deployer.errors import HashMismatch, NoSpace, SourceUnreachable
from deployer.fetch.patience import ATTEMPTS, BUSY, LONGEST_S, clock, pause, wait_of
from deployer.frozen import dataclass
from deployer.home import sync_folder
from deployer.progress import Progress
from deployer.quantity import format_size

if TYPE_CHECKING:
    import socket

    import httpx

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
STALL_S = 60.0  # a connection that gives nothing for this long is changed
CHUNK = 1 << 20
HOLD_S = 0.2  # longer nothing is held back on a slow line
BULK = 16 << 20  # bytes of an answer for which a connection is worth giving up


@dataclass(frozen=True)
class Web:
    """How the outside is reached: `index` is a Python package index, `hub` the model hub's address.

    `index=None` means the one that pip is configured for. `wheelhouse` is a folder of wheels that need no
    index. `ca` names a file of certificates that are trusted besides the system's; `token` goes to the hub
    and nowhere else. `proxy` stands for those of the environment. `mirrors` are addresses that speak the hub's protocol
    and are asked for bytes before it, in order; what they give is held to the hub's hashes. `cache` is the folder
    where this user's other programs keep what they fetched from the hub. `modelscope` and `modelscope_token` are the
    same for ModelScope; `docker` is docker's config.json, which knows who this user is at container registries.
    """

    index: str | None = None
    hub: str = "https://huggingface.co"
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None
    wheelhouse: Path | None = None
    proxy: str | None = field(default=None, repr=False)
    mirrors: tuple[str, ...] = ()
    cache: Path | None = None
    modelscope: str = "https://modelscope.cn"
    modelscope_token: str | None = field(default=None, repr=False)
    docker: Path | None = None

    def client(self) -> httpx.Client:
        """A client with time limits; without `proxy`, proxies come from the environment, as httpx reads it."""
        import ssl

        import httpx

        context = ssl.create_default_context()
        try:
            import certifi

            context.load_verify_locations(certifi.where())
        except (ImportError, OSError):
            pass  # the system's certificates are enough where they exist
        if self.ca:
            context.load_verify_locations(self.ca)
        timeout = httpx.Timeout(STALL_S, connect=15.0)
        return httpx.Client(verify=context, timeout=timeout, follow_redirects=True, proxy=self.proxy)


def bulk(answer: httpx.Response, least: int = BULK) -> Iterator[bytes | memoryview]:
    """The body as it comes. Of `least` bytes and more, all but the first piece is read past the HTTP library.

    With hashing and writing that takes a third less of the processor's time; the connection is not used again. A piece
    holds until the next one is asked for. Raises httpx.HTTPError.
    """
    import ssl

    pieces, length = answer.iter_raw(), answer.headers.get("content-length", "")
    first = next(pieces, b"")  # what came with the headers is in the library's hands
    yield first
    left = int(length) - len(first) if length.isdecimal() else 0
    stream = answer.extensions["network_stream"]
    nested = isinstance(stream.get_extra_info("ssl_object"), ssl.SSLObject)  # TLS through a proxy that speaks TLS
    if left < least or nested or "transfer-encoding" in answer.headers:
        yield from pieces
        return
    line = stream.get_extra_info("socket")
    line.settimeout(answer.request.extensions["timeout"]["read"])
    yield from _received(line, left)


def _received(line: socket.socket, left: int) -> Iterator[memoryview]:
    """So many bytes, a megabyte at a time; on a slow line what came within a moment."""
    import httpx

    buffer = memoryview(bytearray(min(left, CHUNK)))
    while left:
        here, began = 0, time.monotonic()
        trouble: httpx.HTTPError | None = None
        most = min(left, len(buffer))
        while here < most and time.monotonic() - began < HOLD_S:
            try:
                count = line.recv_into(buffer[here:most])
            except OSError as error:
                trouble = httpx.ReadError(str(error) or "it gives nothing any more")
                break
            if not count:
                trouble = httpx.RemoteProtocolError(f"the connection was closed {left - here} bytes too early")
                break
            here += count
        left -= here
        yield buffer[:here]
        if trouble:
            raise trouble


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write on the file system of `folder` (or its nearest parent)."""
    while not folder.exists():
        folder = folder.parent
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def download(
    client: httpx.Client,
    url: str,
    dest: Path,
    *,
    sha256: str | None,
    size: int | None,
    progress: Progress,
    headers: Mapping[str, str] | None = None,
) -> str:
    """Fetches `url` to `dest` and returns its SHA-256.

    Bytes land in `dest` + `.partial`, which a later call continues. Raises NoSpace before the first
    byte when `size` does not fit, HashMismatch when the end result is not `sha256`, and
    SourceUnreachable when five attempts in a row bring nothing.
    """
    import httpx

    part = dest.with_name(dest.name + ".partial")
    dest.parent.mkdir(parents=True, exist_ok=True)
    digest, have = _hash_existing(part)
    if size is not None and have > size:  # of another file
        part.unlink()
        digest, have = hashlib.sha256(), 0
    if size is not None and size - have > free_bytes(dest.parent):
        raise NoSpace(
            f"{dest.name} needs {format_size(size - have)} and {dest.parent} has "
            f"{format_size(free_bytes(dest.parent))} free",
            hint=f"make room there, or point --home at a larger file system: df -h {dest.parent}",
        )
    part.touch()  # an empty file needs no request
    failures, most, over = 0, have, False
    while size is None or have < size:
        asked = None
        try:
            ask = {"Accept-Encoding": "identity", **(headers or {})}
            if have:
                ask["Range"] = f"bytes={have}-"
            with client.stream("GET", url, headers=ask) as answer:
                if have and answer.status_code == 416:
                    if over:  # twice: the server's file is shorter than it should be
                        break
                    over, most = True, 0
                if have and answer.status_code in (200, 416):  # the server starts over, so do we
                    part.unlink(missing_ok=True)
                    digest, have = hashlib.sha256(), 0
                    if answer.status_code == 416:
                        continue
                if answer.status_code in BUSY:
                    asked = wait_of(answer.headers)
                    raise httpx.TransportError(f"HTTP {answer.status_code}")
                if answer.status_code >= 400:
                    raise SourceUnreachable(f"{url} answers HTTP {answer.status_code}", hint=hint_of(answer))
                length = answer.headers.get("content-length")
                if size is None and length and "content-encoding" not in answer.headers:
                    size = have + int(length)
                with part.open("ab") as out:
                    for chunk in bulk(answer):  # as it comes: what is held back is lost in a cut
                        out.write(chunk)
                        digest.update(chunk)
                        have += len(chunk)
                        progress.amount(dest.name, have, size)
                        if size is not None and have > size:
                            break
                    out.flush()
                    os.fsync(out.fileno())
            if size is None:
                break
        except httpx.HTTPError as error:
            failures = 0 if have > most else failures + 1
            if failures >= ATTEMPTS:
                raise SourceUnreachable(
                    f"{url.split('?')[0]} cannot be reached: {reason_of(error)}",
                    hint="check the network and the proxy, then run the same command: it goes on where it stopped",
                ) from error
            seconds = pause(failures) if asked is None else min(asked, LONGEST_S)
            if seconds > 3:
                progress.say(f"{dest.name}: {reason_of(error)}; asked again at {clock(seconds)}")
            time.sleep(seconds)
        except OSError as error:
            if error.errno == 28:
                raise NoSpace(
                    f"the disk is full: {dest.name} has {format_size(have)} of "
                    f"{format_size(size) if size else 'an unknown size'}",
                    hint=f"make room on the file system of {dest.parent} and run the same command again",
                ) from error
            raise
        else:  # a whole answer, and yet too short
            failures = 0 if have > most else failures + 1
            if failures >= ATTEMPTS:
                break
        most = max(most, have)
    found = digest.hexdigest()
    if (sha256 and found != sha256) or (size is not None and have != size):
        part.unlink(missing_ok=True)
        raise HashMismatch(
            f"{dest.name}: wanted sha256 {sha256} and {size} bytes, got {found} and {have} bytes",
            hint="an empty file came: look at the proxy and the disk"
            if found == EMPTY_SHA256
            else "a proxy or mirror changed the bytes, or the pin is wrong; nothing of it was kept",
        )
    part.replace(dest)
    sync_folder(dest.parent)
    return found


def _hash_existing(part: Path) -> tuple[hashlib._Hash, int]:
    digest, have = hashlib.sha256(), 0
    if part.exists():
        with part.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                have += len(chunk)
    return digest, have


def reason_of(error: Exception) -> str:
    """What went wrong with a connection, in words for people."""
    text = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "its certificate is not trusted; name your company's with --ca-cert FILE"
    return text


def hint_of(answer: httpx.Response) -> str | None:
    """What a person can do about a refusal."""
    if answer.status_code in (401, 403):
        return "gated or private: accept the licence on the model's page and set HF_TOKEN"
    if answer.status_code == 404:
        return "check the name and the revision"
    return None
