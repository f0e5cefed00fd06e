"""The container runtime, asked over its socket.

The Engine API is two plain HTTP requests here. The `docker` package asks the same and costs 0.15 s to
import, as much as all of `deployer check` may take; it is used where containers are started.
"""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployer.host.base import LIMIT_S, Questions


@dataclass(frozen=True)
class ContainerRuntime:
    """`kind` is `docker` or `podman`; `refused` says why nothing may be asked although a socket is there."""

    kind: str
    version: str
    api: str
    root: str
    storage_driver: str
    cgroup: str
    rootless: bool
    nvidia_runtime: bool
    cdi_gpus: tuple[str, ...]


def runtime(ask: Questions) -> ContainerRuntime | None:
    """None when no socket is there. Raises OSError when one is there and does not answer as it should."""
    scheme, _, place = ask.docker.partition("://")
    try:
        if scheme == "unix" and not Path(place).exists():
            return None
        version, info = _both(ask.docker, "/version", "/info")
    except PermissionError as error:
        raise PermissionError(f"this user may not use {place}") from error
    except ConnectionRefusedError:
        return None  # a socket that an ended daemon left behind
    except TimeoutError as error:
        raise TimeoutError(f"{ask.docker} does not answer") from error
    parts = {part.get("Name", "") for part in version.get("Components") or ()}
    return ContainerRuntime(
        kind="podman" if "Podman Engine" in parts else "docker",
        version=version.get("Version", ""),
        api=version.get("ApiVersion", ""),
        root=info.get("DockerRootDir", ""),
        storage_driver=info.get("Driver", ""),
        cgroup=f"{info.get('CgroupDriver', '')} v{info.get('CgroupVersion', '')}",
        rootless=any("rootless" in str(o) for o in info.get("SecurityOptions") or ()),
        nvidia_runtime="nvidia" in (info.get("Runtimes") or {}),
        cdi_gpus=_cdi_gpus(info.get("CDISpecDirs") or ()),
    )


def _cdi_gpus(folders: Any) -> tuple[str, ...]:
    """Names of `nvidia.com/gpu` devices in the specifications that the engine reads."""
    names = []
    for folder in folders:
        for path in sorted(Path(folder).glob("*")):
            if path.suffix not in (".json", ".yaml", ".yml"):
                continue
            import yaml

            try:
                text = path.read_text()
                spec = yaml.safe_load(text) if "nvidia.com/gpu" in text else None
                if isinstance(spec, dict) and spec.get("kind") == "nvidia.com/gpu":
                    names += [str(device["name"]) for device in spec.get("devices") or ()]
            except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
                continue  # one that the engine cannot use either
    return tuple(dict.fromkeys(names))


def _both(address: str, one: str, other: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two answers in the time of the slower one; the second's error is raised when the first has none."""
    found: list[dict[str, Any]] = []
    failed: list[OSError] = []

    def ask() -> None:
        try:
            found.append(_get(address, one))
        except OSError as error:
            failed.append(error)

    aside = threading.Thread(target=ask, daemon=True)
    aside.start()
    info = _get(address, other)
    aside.join()
    if failed:
        raise failed[0]
    return found[0], info


def _get(address: str, path: str) -> dict[str, Any]:
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
    if status[1] != b"200":
        raise OSError(f"{address} answers HTTP {status[1].decode()} to {path}")
    try:
        found: dict[str, Any] = json.loads(body)
    except ValueError as error:
        raise OSError(f"{address} answers {path} with something that is not JSON") from error
    return found
