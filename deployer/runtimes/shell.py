"""A container as the shell command that would start it, for people."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from deployer.runtimes.base import Part

PORT = 8080  # inside containers


def as_command(create: Mapping[str, Any], part: Part) -> str:
    """`docker run` with what the engine is asked to create for `part`."""
    host = create["host_config"]
    words = ["docker", "run", "-d", "--name", create["name"], "--user", create["user"], "--read-only"]
    words += ["--tmpfs", f"/tmp:{host['Tmpfs']['/tmp']}", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    words += ["--pids-limit", str(host["PidsLimit"]), "--network", host["NetworkMode"]]
    if "ShmSize" in host:
        words += ["--shm-size", str(host["ShmSize"])]
    if create["networking_config"]:
        words += ["--network-alias", part.role]
    for bindings in (host.get("PortBindings") or {}).values():
        words += ["-p", f"{bindings[0]['HostIp']}:{bindings[0]['HostPort']}:{PORT}"]
    for bind in host.get("Binds") or ():
        words += ["-v", bind]
    for key, value in create["environment"].items():
        words += ["-e", f"{key}={value}"]
    if part.gpus and part.gpu_injection == "cdi":
        words += [word for gpu in part.gpus for word in ("--device", f"nvidia.com/gpu={gpu}")]
    elif part.gpus:
        words += ["--gpus", f'"device={",".join(part.gpus)}"']
    return shlex.join([*words, str(create["image"]), *create["command"]])
