"""The container runtime, asked over its socket.

The Engine API is two plain HTTP requests here. The `docker` package asks the same and costs 0.15 s to
import, as much as all of `deployer check` may take; it is used where containers are started.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

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
    address = urlparse(ask.docker)
    try:
        if address.scheme == "unix" and not Path(address.path).exists():
            return None
        version = _get(ask.docker, "/version")
        info = _get(ask.docker, "/info")
    except PermissionError as error:
        raise PermissionError(f"this user may not use {address.path}") from error
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


def _get(address: str, path: str) -> dict[str, Any]:
    """One request in HTTP/1.0, which ends with the connection: `http.client` costs 25 ms to import."""
    parsed = urlparse(address)
    family = socket.AF_UNIX if parsed.scheme == "unix" else socket.AF_INET
    target = parsed.path if parsed.scheme == "unix" else (parsed.hostname or "localhost", parsed.port or 2375)
    answer = b""
    with socket.socket(family) as connection:
        connection.settimeout(LIMIT_S * 0.9)
        connection.connect(target)
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
