"""Who made the image: its system, Pythons, Python distributions and Debian packages, and which files are theirs."""

from __future__ import annotations

import mmap
import re
from typing import NamedTuple

from .tree import Tree

SITES = ("site-packages", "dist-packages")
PYTHON = re.compile(r"/(?:bin|lib|lib64|[^/]+-linux-gnu)/(?:lib)?python(3\.\d+)(?:\.so\.1\.0)?$")
LIBRARY = re.compile(r"\.so(\.|$)")


class Owner(NamedTuple):
    """The distribution or package that a file came with, and the bytes that it had then if that is known."""

    name: str
    version: str
    size: int | None


class Packages(NamedTuple):
    """What is installed, and the owner of each shared library by its real path."""

    system: dict[str, str]
    python: list[dict[str, str]]
    distributions: list[dict[str, str]]
    debian: list[dict[str, str]]
    rpm: bool
    owners: dict[str, Owner]


def read(tree: Tree) -> Packages:
    owners: dict[str, Owner] = {}
    distributions, pythons = [], []
    for path, node in tree.nodes.items():
        if path.endswith(".dist-info/METADATA") and path.split("/")[-3] in SITES:
            distributions.append(distribution(tree, path, owners))
        elif node.target is None and (match := PYTHON.search(path)) and tree.file(path):
            version = python(tree, path, match[1])
            if version:
                pythons.append({"path": path, "version": version})
    debian = [*deb(tree, owners)]
    rpm = any(path in tree.nodes for path in ("/var/lib/rpm", "/usr/lib/sysimage/rpm"))
    return Packages(system(tree), pythons, distributions, debian, rpm, owners)


def system(tree: Tree) -> dict[str, str]:
    """Names and values as /etc/os-release has them."""
    pairs = (line.partition("=") for line in tree.text("/etc/os-release").splitlines())
    facts = {name: value.strip("\"'") for name, _, value in pairs}
    names = {"id": "ID", "version": "VERSION_ID", "name": "PRETTY_NAME"}
    return {key: facts.get(name, "") for key, name in names.items()}


def python(tree: Tree, path: str, minor: str) -> str | None:
    """The version, as 3.11.2, that stands in the program or its library; None if it is in neither."""
    # Not after a zero byte: compilers keep a text as the end of a longer one, such as the path of its installation.
    pattern = re.compile(rb"(?<![\d.])(%s\.\d+(?:(?:a|b|rc)\d+)?\+?)\0" % re.escape(minor).encode())
    try:
        with tree.at(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            match = pattern.search(data)
            return match[1].decode() if match else None
    except (OSError, ValueError):
        return None


def distribution(tree: Tree, path: str, owners: dict[str, Owner]) -> dict[str, str]:
    """Name and version of one Python distribution; its libraries go to `owners`, as its RECORD has them."""
    folder = path.rpartition("/")[0]
    head = tree.text(path).partition("\n\n")[0]
    facts = dict(re.findall(r"^(Name|Version): *(\S+)", head, re.MULTILINE))
    name, version = facts.get("Name", ""), facts.get("Version", "")
    for line in tree.text(f"{folder}/RECORD").splitlines():
        if ".so" in line:
            file, _, size = line.rsplit(",", 2) if line.count(",") > 1 else (line, "", "")
            if LIBRARY.search(file):
                place = tree.real(f"{folder}/../{file}")
                owners[place] = Owner(name, version, int(size) if size.isdigit() else None)
    return {"name": name, "version": version, "path": folder}


def deb(tree: Tree, owners: dict[str, Owner]) -> list[dict[str, str]]:
    """Debian's packages; images without dpkg have a file for each in status.d."""
    slim = "/var/lib/dpkg/status.d/"
    texts = [tree.text(path) for path in tree.nodes if path.startswith(slim) and "." not in path[len(slim) :]]
    found = []
    for entry in "\n\n".join([tree.text("/var/lib/dpkg/status"), *texts]).split("\n\n"):
        facts = dict(re.findall(r"^(Package|Version|Architecture|Status): (.+)$", entry, re.MULTILINE))
        if "Version" not in facts or not facts.get("Status", "ok installed").endswith("ok installed"):
            continue
        name, version, architecture = (facts.get(key, "") for key in ("Package", "Version", "Architecture"))
        found.append({"name": name, "version": version, "architecture": architecture})
        info = f"/var/lib/dpkg/info/{name}"
        lines = tree.text(f"{info}.list") or tree.text(f"{info}:{architecture}.list")
        for line in lines.splitlines():
            if ".so" in line and LIBRARY.search(line):
                owners.setdefault(tree.real(line), Owner(name, version, None))
    return sorted(found, key=lambda package: (package["name"], package["architecture"]))
