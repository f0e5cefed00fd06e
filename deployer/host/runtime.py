"""The container runtime, asked over its socket.

The Engine API is a few plain HTTP requests here. The `docker` package asks the same and costs 0.15 s to
import, as much as all of `deployer check` may take; it is used where containers are started.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deployer.frozen import dataclass
from deployer.host.base import LIMIT_S, NOT_ASKED, Fact, Questions, Unknown
from deployer.host.network import without_password
from deployer.host.toolkit import specifications


@dataclass(frozen=True)
class ContainerRuntime:
    """`kind` is `docker` or `podman`.

    `cdi` is whether the engine reads CDI specifications at all, `cdi_folders` where; `cdi_gpus` are the
    `nvidia.com/gpu` devices found there. `runtimes` are the OCI runtimes by name. `logs_limited` is whether the
    default log driver ever stops growing. `proxies` are the engine's own. `containers` are the running ones, id
    (12 digits) to name. `buildx` is whether the client's plug-in is on this machine.
    """

    kind: str
    version: str
    api: str
    root: str
    storage_driver: str
    cgroup: str
    rootless: bool
    nvidia_runtime: bool
    cdi_gpus: tuple[str, ...]
    cdi: Fact[bool] = NOT_ASKED
    cdi_folders: Fact[tuple[str, ...]] = NOT_ASKED
    runtimes: Fact[tuple[str, ...]] = NOT_ASKED
    default_runtime: Fact[str] = NOT_ASKED
    log_driver: Fact[str] = NOT_ASKED
    logs_limited: Fact[bool | None] = NOT_ASKED
    proxies: Fact[Mapping[str, str]] = NOT_ASKED
    swarm: Fact[bool] = NOT_ASKED
    generic_resources: Fact[tuple[str, ...]] = NOT_ASKED
    containers: Fact[Mapping[str, str]] = NOT_ASKED
    components: Mapping[str, str] = field(default_factory=dict)
    security: Fact[tuple[str, ...]] = NOT_ASKED
    buildx: Fact[bool] = NOT_ASKED
    remote: bool = False


_PLUGINS = ("usr/libexec/docker", "usr/lib/docker", "usr/local/lib/docker", "usr/local/libexec/docker")


def runtime(ask: Questions) -> ContainerRuntime | None:
    """None when no socket is there. Raises OSError when one is there and does not answer as it should."""
    scheme, _, place = ask.docker.partition("://")
    try:
        if scheme == "unix" and not Path(place).exists():
            return None
        version, info, containers = _all(ask.docker, "/version", "/info", "/containers/json")
    except PermissionError as error:
        raise PermissionError(f"this user may not use {place}") from error
    except ConnectionRefusedError:
        return None  # a socket that an ended daemon left behind
    except TimeoutError as error:
        raise TimeoutError(f"{ask.docker} does not answer") from error
    parts = {
        str(part.get("Name", "")): str(part.get("Version", "")) for part in version.get("Components") or ()
    }
    podman = "Podman Engine" in parts
    folders = tuple(str(folder) for folder in info.get("CDISpecDirs") or ())
    if podman and not folders:  # it always reads CDI, and its /info does not say where
        folders = ("/etc/cdi", "/var/run/cdi")
    settings: dict[str, Any] | Unknown = (
        Unknown("the container runtime is on another machine") if _remote(ask.docker) else _settings(ask)
    )
    return ContainerRuntime(
        kind="podman" if podman else "docker",
        version=version.get("Version", ""),
        api=version.get("ApiVersion", ""),
        root=info.get("DockerRootDir", ""),
        storage_driver=info.get("Driver", ""),
        cgroup=f"{info.get('CgroupDriver', '')} v{info.get('CgroupVersion', '')}",
        rootless=any("rootless" in str(o) for o in info.get("SecurityOptions") or ()),
        nvidia_runtime="nvidia" in (info.get("Runtimes") or {}),
        cdi_gpus=_cdi_gpus(folders, ask),
        cdi=bool(folders),
        cdi_folders=folders,
        runtimes=tuple(info.get("Runtimes") or ()),
        default_runtime=info.get("DefaultRuntime", ""),
        log_driver=info.get("LoggingDriver", ""),
        logs_limited=_logs_limited(info.get("LoggingDriver"), settings),
        proxies={
            name: without_password(str(info[key])) or ""
            for name, key in (("http", "HttpProxy"), ("https", "HttpsProxy"), ("no", "NoProxy"))
            if info.get(key)
        },
        swarm=(info.get("Swarm") or {}).get("LocalNodeState") == "active",
        generic_resources=settings
        if isinstance(settings, Unknown)
        else tuple(str(entry) for entry in settings.get("node-generic-resources") or ()),
        containers=containers
        if isinstance(containers, Unknown)
        else {str(c["Id"])[:12]: str((c.get("Names") or [""])[0]).lstrip("/") for c in containers or ()},
        components=parts,
        security=tuple(str(o) for o in info.get("SecurityOptions") or ()),
        buildx=_buildx(ask),
        remote=_remote(ask.docker),
    )


def _remote(address: str) -> bool:
    """Whether the engine is on another machine: over TCP, and not on this one's loopback."""
    scheme, _, place = address.partition("://")
    return scheme != "unix" and not re.match(r"(127\.|localhost|\[::1\])", place)


def present(reference: str, ask: Questions) -> bool:
    """Whether the engine has the image `reference`. Raises OSError when it cannot be asked."""
    try:
        _get(ask.docker, f"/images/{quote(reference, safe='/:')}/json")
    except FileNotFoundError:
        return False
    return True


def _settings(ask: Questions) -> dict[str, Any] | Unknown:
    """The engine's own file; empty where there is none, which is how most engines run."""
    try:
        found = json.loads((ask.etc / "docker/daemon.json").read_text() or "{}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        return Unknown(f"daemon.json: {error}")
    return found if isinstance(found, dict) else Unknown("daemon.json is no object")


def _logs_limited(driver: object, settings: dict[str, Any] | Unknown) -> Fact[bool | None]:
    """None for a driver that keeps no files of its own; `json-file` grows for ever unless told otherwise."""
    if driver != "json-file":
        return None if driver not in ("local",) else True
    if isinstance(settings, Unknown):
        return settings
    return "max-size" in (settings.get("log-opts") or {})


def _buildx(ask: Questions) -> bool:
    places = [ask.root / place / "cli-plugins/docker-buildx" for place in _PLUGINS]
    homes = [line.split(":")[5] for line in _passwd(ask) if line.count(":") >= 6]
    here = [ask.root / home.lstrip("/") / ".docker/cli-plugins/docker-buildx" for home in homes]
    return any(path.exists() for path in (*places, *here))


def _passwd(ask: Questions) -> list[str]:
    """The entry of this user alone."""
    try:
        lines = (ask.etc / "passwd").read_text().splitlines()
    except OSError:
        return []
    return [line for line in lines if line.split(":")[2:3] == [str(os.geteuid())]]


def _cdi_gpus(folders: tuple[str, ...], ask: Questions) -> tuple[str, ...]:
    """Names of `nvidia.com/gpu` devices in the specifications that the engine reads."""
    names = [name for spec in specifications(folders, ask) if not spec.unreadable for name in spec.devices]
    return tuple(dict.fromkeys(names))


def _all(address: str, *paths: str) -> list[Any]:
    """Every answer in the time of the slowest one. The last is Unknown when it fails; the others raise."""
    found: dict[str, Any] = {}

    def ask(path: str) -> None:
        try:
            found[path] = _get(address, path)
        except (OSError, ValueError) as error:
            found[path] = error if isinstance(error, OSError) else OSError(f"{address}: {error}")

    aside = [threading.Thread(target=ask, args=(path,), daemon=True) for path in paths[1:]]
    for thread in aside:
        thread.start()
    ask(paths[0])
    for thread in aside:
        thread.join()
    for path in paths[:-1]:
        if isinstance(found[path], OSError):
            raise found[path]
    last = found[paths[-1]]
    return [*(found[path] for path in paths[:-1]), Unknown(str(last)) if isinstance(last, OSError) else last]


def _get(address: str, path: str) -> Any:
    """One request in HTTP/1.0, which ends with the connection: `http.client` costs 25 ms to import."""
    scheme, _, place = address.partition("://")
    if scheme not in ("unix", "tcp"):
        raise OSError(f"only unix:// and tcp:// addresses can be asked, not {address}")
    answer = b""
    with socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET) as connection:
        connection.settimeout(LIMIT_S * 0.9)
        host, _, port = place.rpartition(":")
        connection.connect(place if scheme == "unix" else (host, int(port)))
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: engine\r\n\r\n".encode())
        while part := connection.recv(1 << 16):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].split(b" ")
    if len(status) < 2 or not status[0].startswith(b"HTTP/"):
        raise OSError(f"{address} does not speak HTTP")
    if status[1] == b"404":
        raise FileNotFoundError(f"{address} answers HTTP 404 to {path}")
    if status[1] != b"200":
        raise OSError(f"{address} answers HTTP {status[1].decode()} to {path}")
    try:
        return json.loads(body)
    except ValueError as error:
        raise OSError(f"{address} answers {path} with something that is not JSON") from error
