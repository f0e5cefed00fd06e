"""What is launched, as values, and what every runtime can do with them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict, field
from pathlib import Path, PurePath
from typing import Any, Protocol

from deployer.frozen import dataclass
from deployer.progress import Progress
from deployer.runtimes.living import Member

# For every part: nothing is fetched, and nothing is told to anybody.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}
ENGINE_PORT = "{engine_port}"  # in arguments: a port that the runtime chooses when it starts the unit


@dataclass(frozen=True)
class Mount:
    """A host path that a part sees at `target`, read-only unless it says otherwise."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Part:
    """One program of a unit: `engine`, or `gateway` in front of it. `image` is None without containers.

    `compiles`: programs that it writes to /tmp may run.
    """

    role: str
    arguments: tuple[str, ...]
    image: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    gpus: tuple[str, ...] = ()
    gpu_injection: str | None = None
    compiles: bool = False


@dataclass(frozen=True)
class Launch:
    """A unit to start. Its name is a path: `NAME` is what clients reach, `NAME/gN/K` an engine behind that.

    The last part is published on `address`:`port`, none of them where `port` is None. `outside` is whether it asks
    somebody who is not on this host.
    """

    unit: str
    generation: int
    port: int | None
    parts: tuple[Part, ...]
    address: str = "127.0.0.1"
    outside: bool = False

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Launch:
        """The launch that `dataclasses.asdict` made `raw` of."""
        parts = []
        for part in raw["parts"]:
            mounts = tuple(Mount(**mount) for mount in part["mounts"])
            lists = {"arguments": tuple(part["arguments"]), "gpus": tuple(part["gpus"]), "mounts": mounts}
            parts.append(Part(**{**part, **lists}))
        return cls(**{**raw, "parts": tuple(parts)})

    @property
    def fingerprint(self) -> str:
        """The same for every launch that would give the same unit; the generation does not count."""
        value = asdict(self)
        del value["generation"]
        value["unit"] = deployment_of(self.unit)
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Unit:
    """What runs, or ran, under a name. `state` is `running`, `stopped` or `dead` (a part is gone)."""

    name: str
    state: str
    fingerprint: str
    generation: int
    runtime: str
    port: int | None
    exit: str | None = None


@dataclass(frozen=True)
class Once:
    """A program that runs to its end, of the engine `program` (an image, or the path of its main program).

    `{key}` in `arguments` is where the program sees `paths[key]`, which it only reads unless `writable` has the key.
    `folder` is where programs are in the engine's image. `purpose` is what only one job at a time works for: what an
    earlier one left when it was killed is ended first.
    """

    program: str
    folder: str
    arguments: tuple[str, ...]
    paths: Mapping[str, Path]
    writable: tuple[str, ...] = ()
    purpose: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The program, or the script that Python runs."""
        word = self.arguments[1 if self.arguments[0] == "python" else 0]
        return PurePath(fill(word, {key: str(path) for key, path in self.paths.items()})).name


@dataclass(frozen=True)
class Inside:
    """Where a part finds things: paths and addresses as the program itself sees them."""

    model: str
    config: str
    state: str
    listen: str
    engine_port: str
    public_port: str


@dataclass(frozen=True)
class About:
    """A part as it is. `program` is an image reference or a path, `identity` the image's id.

    `labels` are the image's own, `networks` its addresses by network, `limits` what holds it, by name; both runtimes
    give what the kernel says of its main process.
    """

    role: str
    state: str
    program: str
    arguments: tuple[str, ...]
    pids: tuple[int, ...]
    limits: Mapping[str, str]
    id: str | None = None
    identity: str | None = None
    mounts: tuple[Mount, ...] = ()
    gpus: tuple[str, ...] = ()
    networks: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


class Runtime(Protocol):
    """One way to run units. Methods raise LaunchError or RuntimeUnavailable with a hint."""

    name: str

    def inside(self, unit: str, model: Path, folder: Path, port: int) -> Inside:
        """How parts will see `model`, which lies in `folder` of the store, and the public `port`."""

    def mounts(self, unit: str, folder: Path, role: str) -> tuple[Mount, ...]:
        """What a part must be given: the model in `folder` for an engine, its configuration for a gateway."""

    def start(self, launch: Launch) -> None:
        """Starts all parts, anew or as they were kept; returns when they run, not when they are ready."""

    def address(self, unit: str) -> str:
        """Where the gateway of its deployment reaches the engine `unit`, which runs."""

    def find(self, unit: str) -> Unit | None:
        """What is there under this name now."""

    def units(self) -> tuple[Unit, ...]:
        """Everything of this home."""

    def pulse(self, unit: str) -> Hashable:
        """A value that changes while the unit's engine makes progress: log, memory, bytes read."""

    def resident(self, unit: str) -> int | None:
        """Bytes of memory that the engine's processes hold, files that they map included; None when it cannot tell."""

    def members(self, unit: str) -> tuple[Member, ...]:
        """The processes of the unit and of all below it, with their children; none where the engine is elsewhere."""

    def about(self, unit: str) -> tuple[About, ...]:
        """What runs now of each part, asked of the kernel and of the engine, in the parts' order."""

    def keep(self, unit: str) -> bool:
        """Whether the runtime itself brings a deployment back after a reboot, as it is asked to now or not any more."""

    def stop(self, unit: str, *, keep: bool = False, below: bool = True) -> None:
        """Ends the unit, with all `below` it, waits until that is gone, and leaves nothing, unless it is to `keep` it.

        What was kept is found as `stopped`, and starts again as it was.
        """

    def logs(self, unit: str, *, lines: int | None = None, follow: bool = False) -> Iterator[str]:
        """Lines of all parts of this unit."""

    def commands(self, launch: Launch) -> tuple[str, ...]:
        """The launch as shell commands, for people."""

    def has_image(self, reference: str) -> bool:
        """Whether the image is on this host; False where there are no images."""

    def once(self, job: Once, progress: Progress) -> str:
        """Runs the job to its end, without a network where there are containers; what it said, errors too."""

    def engine_folder(self, program: str, folder: str, name: str, scratch: Path) -> Path:
        """What is called `name` beside the programs of the engine `program`, on this host; `scratch` may hold it.

        `folder` is where programs are in the engine's image.
        """

    def named(self, program: str) -> str:
        """The engine `program` so that it can be told apart from any other build of it."""


def deployment_of(unit: str) -> str:
    """The deployment that a unit belongs to."""
    return unit.partition("/")[0]


def alias(unit: str) -> str:
    """What an engine's unit is called among those of its deployment: `g2-1`."""
    return unit.partition("/")[2].replace("/", "-")


def within(unit: str, name: str, *, below: bool = True) -> bool:
    """Whether `name` is `unit`, or lies below it."""
    return name == unit or (below and name.startswith(f"{unit}/"))


def anonymous(pids: Iterable[int]) -> int:
    """Bytes of memory that are free when these processes end: what they hold that is no file's."""
    found = 0
    for pid in pids:
        try:
            told = re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        except OSError:
            continue  # it has ended
        found += sum(int(one) << 10 for one in told)
    return found


def resident(pids: Iterable[int]) -> int:
    """Bytes that processes and their children hold; what several of them map is counted for each."""
    found, left, seen = 0, list(pids), set[int]()
    while left:
        if (pid := left.pop()) in seen:
            continue
        seen.add(pid)
        try:
            found += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                left += [int(child) for child in children.read_text().split()]
        except (OSError, IndexError):
            continue  # it has ended
    return found


def port_free(port: int) -> bool:
    """Whether 127.0.0.1:`port` can be bound now."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def fill(word: str, paths: Mapping[str, str]) -> str:
    """`word` with `{key}` replaced by the path of that key."""
    return re.sub(r"\{(\w+)\}", lambda found: paths.get(found[1], found[0]), word)


def ending(code: int) -> str:
    """How a program ended, in words; 137 and -9 are what the kernel does when memory runs out."""
    killed = code in (137, -9)
    return "it was killed: is there enough memory?" if killed else f"exit code {code}"


_COUNTS = (
    re.compile(r"^\[ *(\d+)/ *(\d+)\]"),  # llama-quantize
    re.compile(r"^(\d+)/(\d+) "),  # our scripts
)


def watched(lines: Iterable[str], title: str, progress: Progress) -> str:
    """All the lines as one text; what they count is shown."""
    said = []
    for line in lines:
        said.append(line)
        for pattern in _COUNTS:
            if found := pattern.match(line):
                progress.amount(title, int(found[1]), int(found[2]), "parts")
    return "\n".join(said)


def errors_in(said: str) -> list[str]:
    """The last lines that speak of an error, or just the last ones."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return [line for line in lines if re.search(r"error|failed|killed|memory", line, re.IGNORECASE)][-5:] or lines[-5:]
