"""Containers, through the Docker Engine's API (Docker Engine, or Podman's socket).

Containers are found by their labels. Each unit has a network of its own from which no connection leads
out: without a gateway the bridge does no address translation, with one the engine's network is internal.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer.errors import LaunchError, RuntimeUnavailable
from deployer.home import Home, write_whole
from deployer.progress import Progress
from deployer.runtimes import service
from deployer.runtimes.base import (
    About,
    Inside,
    Launch,
    Mount,
    Once,
    Unit,
    alias,
    deployment_of,
    resident,
    within,
)
from deployer.runtimes.container import LABEL, PORT, Ground, create, described, joins, networks
from deployer.runtimes.living import Member, in_containers
from deployer.runtimes.once import USER, lines_of, run_once, taken_out
from deployer.runtimes.shell import as_commands

if TYPE_CHECKING:
    import docker as sdk

_STOP_S = 10
_BUILTIN = (1, 42)  # the Engine API from which `seccomp=builtin` is known: Docker 23.0
_CONFIG = "/run/deployer"


class DockerRuntime:
    """Containers of `home` on the engine that listens at `address`."""

    name = "docker"

    def __init__(self, home: Home, address: str) -> None:
        self._home = home
        self._address = address
        self._client: sdk.DockerClient | None = None
        self._tag = hashlib.sha256(str(home.root).encode()).hexdigest()[:6]
        self._filters: bool | None = None

    def inside(self, unit: str, model: Path, folder: Path, port: int) -> Inside:
        return Inside(
            model=str(Path("/models") / folder.name / model.relative_to(folder)),
            config=_CONFIG,
            state=f"{_CONFIG}/state",
            listen="0.0.0.0",
            engine_port=str(PORT),
            public_port=str(PORT),
        )

    def mounts(self, unit: str, folder: Path, role: str) -> tuple[Mount, ...]:
        if role == "engine":
            return (Mount(str(folder), f"/models/{folder.name}"),)
        # a folder, because a file that is replaced would stay the old one inside
        told = self._home.gateway(deployment_of(unit))
        return (Mount(str(told), _CONFIG), Mount(str(told / "state"), f"{_CONFIG}/state", writable=True))

    def start(self, launch: Launch) -> None:
        try:
            self._start(launch)
        except LaunchError as error:
            # an engine that is in a container itself may not raise limits; NCCL has other ways then
            if "setting rlimit" not in error.message or not self._ground(launch.unit).limits:
                raise
            self.stop(launch.unit, below=False)
            write_whole(self._unlifted(launch.unit), b"", 0o600)
            self._start(launch)

    def _start(self, launch: Launch) -> None:
        import docker.errors

        if any(part.role == "gateway" for part in launch.parts):
            self._share(self._home.gateway(deployment_of(launch.unit)))
        client = self._engine()
        try:
            if kept := self._kept(launch):
                for id_ in kept:
                    client.api.start(id_)
                return
            # containers name their network when they are made and need it when they start
            with ThreadPoolExecutor() as aside:
                ready = [
                    aside.submit(self._ensure_network, launch.unit, inner, launch.outside)
                    for inner in networks(launch)
                ]
                ground = self._ground(launch.unit)
                made = [client.api.create_container(**create(launch, part, ground)) for part in launch.parts]
                for network in ready:
                    network.result()
            if joins(launch):
                client.networks.get(ground.network(launch.unit, inner=True)).connect(made[-1]["Id"])
            for container in made:
                client.api.start(container["Id"])
        except docker.errors.APIError as error:
            said = error.explanation or error
            raise LaunchError(f"the engine refuses to start {launch.unit}: {said}") from error

    def _kept(self, launch: Launch) -> list[str]:
        """The containers of exactly this launch, if they are all there and stopped; any other is removed."""
        found = self._exactly(launch.unit)
        here = self._unit(launch.unit, found) if found else None
        if here and here.state == "stopped" and here.fingerprint == launch.fingerprint:
            return [container["Id"] for container in found] if len(found) == len(launch.parts) else []
        for container in found:
            self._engine().api.remove_container(container["Id"], force=True)
        return []

    def address(self, unit: str) -> str:
        return f"http://{alias(unit)}:{PORT}"

    def find(self, unit: str) -> Unit | None:
        return next((u for u in self.units() if u.name == unit), None)

    def units(self) -> tuple[Unit, ...]:
        found: dict[str, list[dict[str, Any]]] = {}
        for container in self._containers():
            found.setdefault(container["Labels"][f"{LABEL}.unit"], []).append(container)
        return tuple(self._unit(name, containers) for name, containers in sorted(found.items()))

    def pulse(self, unit: str) -> Hashable:
        signs: list[Hashable] = []
        for id_, members in self._living(self._exactly(unit), "engine").items():
            try:
                log = Path(self._engine().api.inspect_container(id_)["LogPath"]).stat().st_size
            except OSError:
                log = len(self._engine().api.logs(id_, tail=2000))
            pids = tuple(one.pid for one in members)
            signs.append((pids, log, resident(pids)))
        return tuple(signs)

    def resident(self, unit: str) -> int | None:
        living = self._living(self._exactly(unit), "engine").values()
        return resident(one.pid for members in living for one in members) or None  # it may be on another machine

    def members(self, unit: str) -> tuple[Member, ...]:
        return tuple(one for members in self._living(self._containers(unit)).values() for one in members)

    def _living(self, found: Iterable[dict[str, Any]], role: str | None = None) -> dict[str, tuple[Member, ...]]:
        """Processes by the id of their container; of one role, or of all."""
        return in_containers([c["Id"] for c in found if role in (None, c["Labels"].get(f"{LABEL}.role"))])

    def about(self, unit: str) -> tuple[About, ...]:
        api = self._engine().api
        containers = self._exactly(unit)
        members = in_containers([container["Id"] for container in containers])
        raw = [api.inspect_container(container["Id"]) for container in containers]
        images = [self._engine().images.get(one["Image"]).attrs for one in raw]
        return tuple(described(*all_, members[all_[0]["Id"]]) for all_ in zip(raw, images, strict=True))

    def keep(self, unit: str) -> bool:
        on = service.kept(self._home, unit)
        for container in self._containers(unit):
            policy: Any = {"Name": "unless-stopped" if on else "no"}
            self._engine().api.update_container(container["Id"], restart_policy=policy)
        return on

    def stop(self, unit: str, *, keep: bool = False, below: bool = True) -> None:
        import docker.errors

        client = self._engine()
        for container in self._containers(unit) if below else self._exactly(unit):
            try:
                client.api.stop(container["Id"], timeout=_STOP_S)
                if not keep:
                    client.api.remove_container(container["Id"], force=True)
            except docker.errors.NotFound:
                continue
        left = self._containers(deployment_of(unit))
        outer = self._ground(unit).network(unit, inner=False)
        label = f"{LABEL}.network={self._tag}-{deployment_of(unit)}"
        for network in client.networks.list(filters={"label": label}):
            # who is stopped needs them again
            if not left or (network.name == outer and all(c["Labels"][f"{LABEL}.role"] != "gateway" for c in left)):
                network.remove()
        if not keep:
            self._unlifted(unit).unlink(missing_ok=True)

    def logs(self, unit: str, *, lines: int | None = None, follow: bool = False) -> Iterator[str]:
        containers = self._exactly(unit)
        for container in containers:
            prefix = f"{container['Labels'][f'{LABEL}.role']} | " if len(containers) > 1 else ""
            if follow and container is not containers[0]:
                return  # the engine is what people follow
            stream = self._engine().api.logs(
                container["Id"], stream=True, follow=follow, tail=lines if lines else "all"
            )
            yield from (prefix + line for line in lines_of(stream))

    def commands(self, launch: Launch) -> tuple[str, ...]:
        return as_commands(launch, self._ground(launch.unit))

    def has_image(self, reference: str) -> bool:
        import docker.errors

        try:
            self._engine().images.get(reference)
        except docker.errors.NotFound:  # Podman says it in other words than Docker
            return False
        return True

    def once(self, job: Once, progress: Progress) -> str:
        return run_once(job, self._engine(), self._tag, self._user(), self._ground("").security, progress)

    def engine_folder(self, program: str, folder: str, name: str, scratch: Path) -> Path:
        return taken_out(program, f"{folder}/{name}", scratch / name, self._engine(), self._tag)

    def named(self, program: str) -> str:
        return f"{program} {self._engine().images.get(program).id}"

    def _engine(self) -> sdk.DockerClient:
        if self._client is None:
            import docker
            import docker.errors
            import requests

            try:
                self._client = docker.DockerClient(base_url=self._address, version="auto", timeout=60)
            except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
                raise RuntimeUnavailable(
                    f"no container engine answers at {self._address}: {error}",
                    hint="start it, or use the embedded runtime: --runtime process",
                ) from error
        return self._client

    def _containers(self, unit: str | None = None) -> list[dict[str, Any]]:
        """Those of this home, or of a unit and all below it."""
        import requests

        try:
            found: list[dict[str, Any]] = self._engine().api.containers(
                all=True, filters={"label": f"{LABEL}.home={self._tag}"}
            )
        except requests.exceptions.RequestException as error:
            raise RuntimeUnavailable(
                f"the container engine at {self._address} does not answer: {error}",
                hint="restart it, or use the embedded runtime: --runtime process",
            ) from error
        return [one for one in found if unit is None or within(unit, one["Labels"][f"{LABEL}.unit"])]

    def _exactly(self, unit: str) -> list[dict[str, Any]]:
        """The containers of this very unit, in the order of its parts."""
        found = [one for one in self._containers(unit) if one["Labels"][f"{LABEL}.unit"] == unit]
        return sorted(found, key=lambda c: str(c["Labels"][f"{LABEL}.order"]))

    def _unit(self, name: str, containers: list[dict[str, Any]]) -> Unit:
        labels = containers[0]["Labels"]
        whole = len(containers) == int(labels[f"{LABEL}.parts"])
        running = all(c["State"] == "running" for c in containers)
        ended = next((c["Status"] for c in containers if c["State"] != "running"), None)
        state = "running" if running and whole else "stopped" if not any(
            c["State"] == "running" for c in containers
        ) else "dead"  # fmt: skip
        return Unit(
            name,
            state,
            labels[f"{LABEL}.fingerprint"],
            int(labels[f"{LABEL}.generation"]),
            self.name,
            int(labels[f"{LABEL}.port"] or 0) or None,
            ended,
        )

    def _ensure_network(self, unit: str, inner: bool, outside: bool) -> None:
        import docker.errors

        ground = self._ground(unit)
        name, options = ground.network(unit, inner=inner), ground.options(inner=inner, outside=outside)
        label = {f"{LABEL}.network": f"{self._tag}-{deployment_of(unit)}"}
        client = self._engine()
        if all(network.name != name for network in client.networks.list(names=[name])):  # matches parts too
            try:
                client.networks.create(name, driver="bridge", internal=inner, options=options, labels=label)
            except docker.errors.APIError:
                # Podman does not know these options; its network then leads out, or to this host
                client.networks.create(name, driver="bridge", internal=inner, labels=label)

    def _ground(self, unit: str) -> Ground:
        limits = not self._rootless() and not self._unlifted(unit).exists()  # without root nobody raises them
        return Ground(self._tag, self._user(), self._seccomp(), limits, service.kept(self._home, deployment_of(unit)))

    def _unlifted(self, unit: str) -> Path:
        """There while the unit runs without the limits that it should have."""
        return self._home.deployment(unit) / "limits-not-lifted"

    def _seccomp(self) -> bool:
        """Whether the engine knows `seccomp=builtin`; taken for granted where none answers: nothing starts there.

        Raises LaunchError where it does not know it and is configured to filter nothing.
        """
        if self._filters is None:
            try:
                about = self._engine().version()
            except RuntimeUnavailable:
                return True
            podman = any(part.get("Name") == "Podman Engine" for part in about.get("Components") or ())
            self._filters = not podman and tuple(map(int, about["ApiVersion"].split("."))) >= _BUILTIN
            said = "" if self._filters else ",".join(self._engine().info().get("SecurityOptions") or ())
            if not self._filters and (not re.search(r"name=seccomp\b", said) or "profile=unconfined" in said):
                raise LaunchError(
                    "the container engine filters no system calls: containers would run without seccomp",
                    hint="take `seccomp-profile` out of /etc/docker/daemon.json, or install Docker 23 or later",
                )
        return self._filters

    def _user(self) -> str:
        """The user inside: this one, or for root the images' own; root where the engine itself is rootless."""
        if self._rootless():
            return "0:0"
        return f"{USER}:{USER}" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"

    def _rootless(self) -> bool:
        return os.geteuid() != 0 and f"/run/user/{os.geteuid()}/" in self._address

    def _share(self, folder: Path) -> None:
        """Gives what a container reads to its user; root can read it still, others cannot."""
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, USER, USER)
