"""Ports with their owners, and whether the places that models come from answer."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from pathlib import Path

from deployer.host.base import LIMIT_S, NOT_ASKED, Fact, Questions


@dataclass(frozen=True)
class Port:
    """A TCP port; `owner` names the process that listens on it as far as this user may know."""

    number: int
    free: bool
    owner: str | None


@dataclass(frozen=True)
class Answer:
    """Whether a place answers at all; `status` is its HTTP status, whatever it is; `seconds` how long it took."""

    url: str
    status: int
    seconds: Fact[float] = NOT_ASKED


@dataclass(frozen=True)
class Proxies:
    """The proxies that this user's programs are told of; `exempt` are the places reached without (NO_PROXY)."""

    http: str | None
    https: str | None
    exempt: tuple[str, ...]


def port(number: int, ask: Questions) -> Port:
    """Tries to bind 127.0.0.1:number; when that fails, looks for who listens."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return Port(number, False, port_owner(number, ask.proc))
    return Port(number, True, None)


def port_owner(number: int, proc: Path = Path("/proc")) -> str | None:
    """`name (pid n)` of the process that listens on `number`, None when this user may not see it."""
    inodes = set()
    for table in ("net/tcp", "net/tcp6"):
        try:
            lines = (proc / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            part = line.split()
            if part[3] == "0A" and int(part[1].rsplit(":", 1)[1], 16) == number:
                inodes.add(f"socket:[{part[9]}]")
    if not inodes:
        return None
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            for handle in (folder / "fd").iterdir():
                if str(handle.readlink()) in inodes:
                    return f"{(folder / 'comm').read_text().strip()} (pid {folder.name})"
        except OSError:
            continue  # another user's process, or one that has just ended
    return None


def proxies(ask: Questions) -> Proxies | None:
    """None where none is set. A password in an address is not kept."""
    http, https = (_without_password(ask.proxies.get(scheme)) for scheme in ("http", "https"))
    exempt = tuple(part.strip() for part in ask.proxies.get("no", "").split(",") if part.strip())
    return Proxies(http, https, exempt) if http or https else None


def _without_password(url: str | None) -> str | None:
    if not url or "@" not in url:
        return url or None
    scheme, sep, rest = url.rpartition("://")
    return f"{scheme}{sep}{rest.rpartition('@')[2]}"


def answer(url: str, ask: Questions) -> Answer:
    """Asks `url` for its head, through the proxy if one is set. Raises OSError when nothing answers."""
    import http.client
    import ssl
    from urllib.parse import urlparse

    parsed = urlparse(url)
    proxy = ask.proxies.get(parsed.scheme)
    target = urlparse(proxy if proxy else url)
    port = target.port or (443 if target.scheme == "https" else 80)
    connection: http.client.HTTPConnection
    start = time.monotonic()
    if parsed.scheme == "https":
        connection = http.client.HTTPSConnection(
            target.hostname or "", port, timeout=LIMIT_S * 0.9, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(target.hostname or "", port, timeout=LIMIT_S * 0.9)
    if proxy:
        connection.set_tunnel(parsed.hostname or "", parsed.port or 443)
    try:
        connection.request("HEAD", parsed.path or "/")
        status = connection.getresponse().status
        return Answer(url, status, round(time.monotonic() - start, 3))
    except socket.gaierror as error:
        raise OSError(f"the name {target.hostname} cannot be resolved") from error
    except ssl.SSLCertVerificationError as error:
        raise OSError(f"certificate not trusted: {error.verify_message}") from error
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
