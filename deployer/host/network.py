"""Ports with their owners, and whether the places that models come from answer."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from deployer.host.base import LIMIT_S, Questions


@dataclass(frozen=True)
class Port:
    """A TCP port; `owner` names the process that listens on it as far as this user may know."""

    number: int
    free: bool
    owner: str | None


@dataclass(frozen=True)
class Answer:
    """Whether a place answers at all; `status` is its HTTP status, whatever it is."""

    url: str
    status: int


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
        return Answer(url, connection.getresponse().status)
    except socket.gaierror as error:
        raise OSError(f"the name {target.hostname} cannot be resolved") from error
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
