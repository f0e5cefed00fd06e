"""Ports with their owners, and whether the places that models come from answer."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

from deployer.frozen import dataclass
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
    """Tries to bind 127.0.0.1:number; when it is held, looks for who listens. Raises PermissionError."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except PermissionError as error:
            raise PermissionError(f"this user may not open port {number}") from error
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
    http, https = (without_password(ask.proxies.get(scheme)) for scheme in ("http", "https"))
    exempt = tuple(part.strip() for part in ask.proxies.get("no", "").split(",") if part.strip())
    return Proxies(http, https, exempt) if http or https else None


def without_password(url: str | None) -> str | None:
    """The address without user and password; None where there is none."""
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
    proxy = _proxy(parsed.scheme, parsed.netloc.rpartition("@")[2], ask)
    target = urlparse(proxy or url)
    port = target.port or (443 if target.scheme == "https" else 80)
    connection: http.client.HTTPConnection
    start = time.monotonic()
    if parsed.scheme == "https":
        connection = http.client.HTTPSConnection(
            target.hostname or "", port, timeout=LIMIT_S * 0.9, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(target.hostname or "", port, timeout=LIMIT_S * 0.9)
    headers = _password(target.username, target.password) if proxy else {}
    place = parsed.path or "/"
    if proxy and parsed.scheme == "https":
        connection.set_tunnel(parsed.hostname or "", parsed.port or 443, headers)
        headers = {}
    elif proxy:
        place = url
    try:
        connection.request("HEAD", place, headers=headers)
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


def _proxy(scheme: str, place: str, ask: Questions) -> str | None:
    """The proxy for a place (`host` or `host:port`), with its scheme; None where none is set or it is exempt."""
    proxy = ask.proxies.get(scheme)
    if not proxy:
        return None
    name = place.lower().rpartition(":")[0] if re.search(r":\d+$", place) else place.lower()
    for part in ask.proxies.get("no", "").lower().split(","):
        end = part.strip().lstrip("*").lstrip(".")
        if part.strip() == "*" or (
            end and any(x == end or x.endswith(f".{end}") for x in (place.lower(), name))
        ):
            return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _password(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    import base64
    from urllib.parse import unquote

    said = base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
    return {"Proxy-Authorization": f"Basic {said}"}
