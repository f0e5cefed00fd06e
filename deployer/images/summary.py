"""What an image is and holds, in a few lines for people: pairs of a title and a text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deployer.images.inspect import OURS, Image, compiled, engines, reached
from deployer.images.proof import verdict
from deployer.images.proof.libraries import CUDA
from deployer.quantity import format_size

Row = tuple[str, str]
_SOME = 8  # entries of a long list that are shown
_SHOWN = 4  # libraries with code for GPUs that are shown


def configuration(image: Image) -> Iterator[Row]:
    """What is known without looking inside."""
    yield "image", f"{image.identity}, {image.platform}, made {(image.created or 'at an unknown time')[:19]}"
    size = format_size(image.size)
    if image.layers:
        size += f" compressed, in layers of {', '.join(format_size(layer) for layer in image.layers)}"
    yield "size", size
    if image.platforms:
        yield (
            "",
            f"also for {', '.join(name for name in image.platforms if name != image.platform) or 'nothing else'}",
        )
    starts = shlex.join((*image.entrypoint, *image.command)) or "nothing: it has no command"
    yield "starts", f"{starts}, as {image.user or 'root'}"
    if image.ours:
        promised = [f"{key} {value}" for key, value in sorted(image.pins.items())]
        if image.compute_capability:
            promised.append(f"compute capability {' '.join(image.compute_capability)}")
        name = f"deployer {image.labels[OURS]}:{image.labels.get('io.deployer.variant', '')}"
        yield "labels", f"{name}: {', '.join(promised) or 'no promises'}"
    for key in sorted(image.labels):
        if key.startswith("com.nvidia."):
            yield "labels", f"{key} {image.labels[key]}"


def demands(image: Image, conditions: Sequence[str]) -> Iterator[Row]:
    """What it asks for in NVIDIA's own variables, and what these leave out."""
    for condition in conditions:
        first, *more = condition.split(" ")
        others = f", or one of {len(more)} pairs of brand and driver branch" if more else ""
        yield "demands", f"{first}{others}"
    if not conditions:
        yield "demands", "no condition on driver or GPU in its environment"
    environment = image.environment
    capabilities = environment.get("NVIDIA_DRIVER_CAPABILITIES", "")
    words = [
        f"{name}={environment[name]}"
        for name in ("CUDA_VERSION", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES")
        if environment.get(name)
    ]
    if words:
        yield "", " ".join(words)
    legacy = environment.get("CUDA_VERSION") and not environment.get("NVIDIA_REQUIRE_CUDA")
    if conditions and not legacy and environment.get("NVIDIA_VISIBLE_DEVICES", "void") in ("", "void"):
        yield "", "NVIDIA_VISIBLE_DEVICES is not set: the nvidia runtime gives it no GPU unless it is told to"
    if capabilities and not {"all", "compute"} & set(capabilities.split(",")):
        yield (
            "",
            f"NVIDIA_DRIVER_CAPABILITIES={capabilities} leaves out compute: CUDA's driver library stays outside",
        )


def inside(image: Image, facts: Mapping[str, Any]) -> Iterator[Row]:
    """What the proof found."""
    yield "inside", ", ".join(_contents(facts))
    if found := engines(facts):
        yield "engines", ", ".join(f"{name} {version}".rstrip() for name, version in found.items())
    for family, title in (("cudart", "CUDA"), ("cudnn", "cuDNN")):
        for one in reached(facts, family):
            yield title, f"{one['version'] or 'version not told'}: {one['path']}, by {one['by']}"
            for other in one["others"]:
                yield "", f"also reachable: {other}"
    yield from _code(facts)
    yield from _twice(facts)
    yield from _rights(image, facts)
    if image.volumes:
        yield "unread", f"volumes, which a container gets anew: {', '.join(image.volumes)}"
    for title, one in zip(["largest"] + [""] * 10, facts["sizes"]["largest"], strict=False):
        yield title, f"{format_size(one['bytes']):>7}  {one['path']}"


def _contents(facts: Mapping[str, Any]) -> Iterator[str]:
    yield facts["system"]["name"] or facts["system"]["id"] or "no known system"
    for version in dict.fromkeys(one["version"] for one in facts["python"]):
        yield f"Python {version}"
    for key, what in (("debian", "Debian package"), ("distributions", "Python distribution")):
        if facts[key]:
            yield _count(len(facts[key]), what)
    if facts["rpm"]:
        yield "rpm packages, which are not read"
    yield f"{_count(facts['sizes']['files'], 'file')} of {format_size(facts['sizes']['bytes'])}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _code(facts: Mapping[str, Any]) -> Iterator[Row]:
    libraries = compiled(facts)
    for title, one in zip(["GPU code"] + [""] * _SHOWN, libraries[:_SHOWN], strict=False):
        ptx = f", PTX {' '.join(one['ptx'])}" if one["ptx"] else ""
        yield title, f"{' '.join(one['sass']) or 'no machine code'}{ptx}: {one['path']}"
    if len(libraries) > _SHOWN:
        yield "", f"and in {len(libraries) - _SHOWN} more libraries"


def _twice(facts: Mapping[str, Any]) -> Iterator[Row]:
    """CUDA's first."""
    families = {one["soname"]: one["family"] for one in facts["libraries"]}
    every = sorted(facts["twice"], key=lambda one: (families.get(one["soname"]) not in CUDA, one["soname"]))
    for title, one in zip(["twice"] + [""] * _SOME, every[:_SOME], strict=False):
        files = " and ".join(f"{file['path']} ({format_size(file['bytes'])})" for file in one["files"])
        yield title, f"{one['soname']} is {files}{', all the same' if one['identical'] else ''}"
    if len(every) > _SOME:
        yield "", f"and {len(every) - _SOME} more"


def _rights(image: Image, facts: Mapping[str, Any]) -> Iterator[Row]:
    found = facts["files"]
    if facts["uid"] == 0:
        yield "rights", "its user is root"
    open_to_all = {"writable by everyone": [path for path in found["world_writable"] if not _allowed(path)]}
    own = {f"writable by {image.user}": [path for path in found["writable"] if not _allowed(path)]}
    lists = {"setuid": found["setuid"], "with capabilities": found["capabilities"]} | open_to_all | own
    for what, paths in lists.items():
        if paths:
            more = f" and {len(paths) - _SOME} more" if len(paths) > _SOME else ""
            yield "rights", f"{what}: {', '.join(paths[:_SOME])}{more}"
    if facts["uid"] != 0 and not any(lists.values()):
        yield "rights", "not root, nothing setuid, nothing writable but folders for temporary files"


def _allowed(path: str) -> bool:
    return any(f"{path}/".startswith(f"{one}/") for one in verdict.WRITABLE)
