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
    """Asks `url` for its head, through the proxy if one is set. Raises OSError when nothing answers.

    By hand on a socket: `http.client` brings all of `email` with it, a tenth of what `check` may take.
    """
    from urllib.parse import urlparse

    parsed = urlparse(url)
    host, secure = parsed.hostname or "", parsed.scheme == "https"
    port = parsed.port or (443 if secure else 80)
    proxy = _proxy(parsed.scheme, parsed.netloc.rpartition("@")[2], ask)
    target = urlparse(proxy or url)
    password = _password(target.username, target.password) if proxy else ""
    start = time.monotonic()
    with _connect(
        target.hostname or "", target.port or (443 if target.scheme == "https" else 80)
    ) as connection:
        place = parsed.path or "/"
        if proxy and secure:
            status = _head(connection, f"CONNECT {host}:{port}", f"{host}:{port}", password)
            if status != 200:
                raise OSError(f"the proxy answers HTTP {status} to CONNECT {host}:{port}")
            password = ""
        elif proxy:
            place = url
        if secure:
            with _secure(connection, host) as inside:
                status = _head(inside, f"HEAD {place}", parsed.netloc.rpartition("@")[2], "")
        else:
            status = _head(connection, f"HEAD {place}", parsed.netloc.rpartition("@")[2], password)
    return Answer(url, status, round(time.monotonic() - start, 3))


def _connect(host: str, port: int) -> socket.socket:
    """A connection to the first of the name's addresses that takes one."""
    try:  # as bytes: a name as text would load all of Unicode's rules for names
        places = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise OSError(f"the name {host} cannot be resolved") from error
    deadline = time.monotonic() + LIMIT_S * 0.9
    problem: OSError = OSError(f"the name {host} has no address")
    for family, kind, protocol, _, address in places:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            problem = error
    raise problem


def _secure(connection: socket.socket, host: str) -> socket.socket:
    import ssl

    try:
        return ssl.create_default_context().wrap_socket(connection, server_hostname=host.encode("ascii"))
    except ssl.SSLCertVerificationError as error:
        raise OSError(f"certificate not trusted: {error.verify_message}") from error


def _head(connection: socket.socket, request: str, host: str, password: str) -> int:
    """Sends a request without a body; the status of the answer, whose head is read to its end."""
    lines = [f"{request} HTTP/1.1", f"Host: {host}", "Accept: */*", "User-Agent: deployer"]
    lines += [f"Proxy-Authorization: Basic {password}"] if password else []
    lines += [] if request.startswith("CONNECT") else ["Connection: close"]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < 1 << 16:
        part = connection.recv(1 << 12)
        if not part:
            break
        answer += part
    words = answer.split(b"\r\n")[0].split(b" ")
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise OSError("it does not speak HTTP")
    return int(words[1])


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


def _password(user: str | None, password: str | None) -> str:
    if user is None:
        return ""
    import base64
    from urllib.parse import unquote

    return base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
