"""A unit of containers as shell commands: those that make the same by hand."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from deployer.runtimes.base import Launch, Part, deployment_of
from deployer.runtimes.container import LABEL, PORT, Ground, create, joins, networks


def as_commands(launch: Launch, ground: Ground) -> tuple[str, ...]:
    """The networks, then one `docker run` for each part. What the gateway is told lies in the folder that it gets."""
    made_before = joins(launch)  # with the engines that it reaches
    lines = [_network(launch, ground, inner=inner) for inner in networks(launch) if not (inner and made_before)]
    made = [create(launch, part, ground) for part in launch.parts]
    lines += [as_command(one, part) for one, part in zip(made, launch.parts, strict=True)]
    if joins(launch):
        network = ground.network(launch.unit, inner=True)
        lines.append(shlex.join(["docker", "network", "connect", network, made[-1]["name"]]))
    return tuple(lines)


def as_command(create: Mapping[str, Any], part: Part) -> str:
    """`docker run` with what the engine is asked to create for `part`."""
    host = create["host_config"]
    words = ["docker", "run", "-d", "--name", create["name"], "--user", create["user"], "--init", "--read-only"]
    words += ["--tmpfs", f"/tmp:{host['Tmpfs']['/tmp']}", "--cap-drop", "ALL"]
    words += [word for option in host["SecurityOpt"] for word in ("--security-opt", option)]
    words += ["--pids-limit", str(host["PidsLimit"]), "--ipc", host["IpcMode"], "--network", host["NetworkMode"]]
    words += ["--log-driver", host["LogConfig"]["Type"]]
    words += [word for pair in host["LogConfig"]["Config"].items() for word in ("--log-opt", "=".join(pair))]
    if "ShmSize" in host:
        words += ["--shm-size", str(host["ShmSize"])]
    for limit in host.get("Ulimits") or ():
        words += ["--ulimit", f"{limit['Name']}={limit['Soft']}:{limit['Hard']}"]
    if "Runtime" in host:
        words += ["--runtime", host["Runtime"]]
    if policy := host.get("RestartPolicy"):
        words += ["--restart", policy["Name"]]
    if create["networking_config"]:
        ((_, endpoint),) = create["networking_config"]["EndpointsConfig"].items()
        words += ["--network-alias", *endpoint["Aliases"]]
    for bindings in (host.get("PortBindings") or {}).values():
        words += ["-p", f"{bindings[0]['HostIp']}:{bindings[0]['HostPort']}:{PORT}"]
    for bind in host.get("Binds") or ():
        words += ["-v", bind]
    for key, value in create["environment"].items():
        words += ["-e", f"{key}={value}"]
    if part.gpus and part.gpu_injection == "cdi":
        words += [word for gpu in part.gpus for word in ("--device", f"nvidia.com/gpu={gpu}")]
    elif part.gpus and part.gpu_injection == "hook":
        words += ["--gpus", f'"device={",".join(part.gpus)}"']
    words += [word for pair in create["labels"].items() for word in ("--label", "=".join(pair))]
    return shlex.join([*words, str(create["image"]), *create["command"]])


def _network(launch: Launch, ground: Ground, *, inner: bool) -> str:
    words = ["docker", "network", "create", *(["--internal"] if inner else [])]
    options = ground.options(inner=inner, outside=launch.outside)
    words += [word for pair in options.items() for word in ("--opt", "=".join(pair))]
    label = f"{LABEL}.network={ground.tag}-{deployment_of(launch.unit)}"
    return shlex.join([*words, "--label", label, ground.network(launch.unit, inner=inner)])
