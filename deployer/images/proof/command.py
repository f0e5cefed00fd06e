"""The two commands: `look` prints facts, `prove` compares them with pins."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import files, libraries, loader, packages, process, verdict
from .tree import Tree

FORMAT = 1
HERE = Path(__file__).resolve().parent


def environment(name: str) -> str:
    """A variable as this process was given it."""
    pairs = (pair.partition(b"=") for pair in Path("/proc/self/environ").read_bytes().split(b"\0"))
    return {key: value.decode("utf-8", "replace") for key, _, value in pairs}.get(name.encode(), "")


def look(
    tree: Tree, paths: list[str], uid: int | None, parents: list[dict[str, int]], programs: Sequence[str] = ()
) -> dict[str, Any]:
    """All facts; `paths` is LD_LIBRARY_PATH, `parents` the bytes by place of the images below this one.

    `programs` are patterns of what is looked at as if it were a library.
    """
    installed = packages.read(tree)
    found = libraries.read(tree, installed.owners, programs)
    return {
        "format": FORMAT,
        "system": installed.system,
        "python": installed.python,
        "distributions": installed.distributions,
        "debian": installed.debian,
        "rpm": installed.rpm,
        "libraries": [one.facts() for one in found if one.family],
        "twice": libraries.twice(tree, found),
        "loader": loader.look(tree, found, paths),
        "fatbins": libraries.fatbins(tree, found),
        "files": files.rights(tree, uid),
        "sizes": files.sizes(tree, parents),
    }


def prove(expect: verdict.Expect, tree: Tree, paths: list[str], uid: int) -> tuple[dict[str, Any], list[str]]:
    """The facts, with what a process maps, and the problems; both are the same for the same image."""
    parents = places(expect.baseline)
    server = process.Program(expect.server, expect.seconds) if expect.server else None
    torch = process.Mapping(["torch"], expect.seconds) if expect.torch else None
    facts = look(tree, paths, uid, parents, expect.fatbins)
    wanted = [str(tree.at(path)) for path in pinned(facts, expect.pins)]
    mapping = torch or (process.Mapping(wanted, expect.seconds) if wanted else None)
    facts["process"] = mapped(mapping.facts(), tree) if mapping else {"mapped": [], "versions": {}}
    problems = []
    if mapping and mapping.failure:
        what = "torch: a process that imports it" if torch else f"library: a process with {' '.join(wanted)}"
        problems.append(f"{what} {mapping.failure}")
    if server:
        server.wait()
        said, words = f"{server.out}\n{server.err}", " ".join(expect.server)
        if server.failure:
            problems.append(f"server: `{words}` {server.failure}")
        elif expect.server_says not in said:
            problems.append(f"server: `{words}` does not say {expect.server_says}, but{process.last(said)}")
    problems += verdict.problems(expect, facts, uid)
    return facts, problems


def pinned(facts: dict[str, Any], pins: Mapping[str, str]) -> list[str]:
    """The libraries to ask for a version where there is no torch: those that the loader would take, or any."""
    families = {"cuda": "libcudart.so", "cudnn": "libcudnn.so"}
    starts = tuple(start for name, start in families.items() if name in pins)
    found = {}
    for one in facts["libraries"]:
        if starts and (one["soname"] or "").startswith(starts):
            reached = facts["loader"]["reach"].get(one["soname"]) or [one]
            found[one["soname"]] = reached[0]["path"]
    return sorted(found.values())


def mapped(said: dict[str, Any], tree: Tree) -> dict[str, Any]:
    """What a process said, with paths of the image, and of its libraries those that depend on no processor."""
    said["versions"] = {path.removeprefix(tree.prefix): version for path, version in said["versions"].items()}
    if "mapped" in said:
        families = {path: libraries.FAMILY.match(Path(path).name) for path in said["mapped"]}
        said["mapped"] = [
            path.removeprefix(tree.prefix) for path, match in families.items() if match and match[1] != "cuda"
        ]
    return said


def places(paths: Sequence[str]) -> list[dict[str, int]]:
    """Of earlier facts, the bytes by place."""
    return [json.loads(Path(path).read_text())["sizes"]["places"] for path in paths]


def expected(path: Path) -> verdict.Expect:
    """Raises ValueError with what is wrong in the file."""
    words = json.loads(path.read_text())
    unknown = words.keys() - set(verdict.Expect._fields)
    if unknown:
        raise ValueError(f"{path} has no use for {', '.join(sorted(unknown))}")
    if isinstance(words.get("baseline"), str):
        words["baseline"] = [words["baseline"]]
    return verdict.Expect(**words)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="proof")
    commands = parser.add_subparsers(dest="command", required=True)
    looking, proving = commands.add_parser("look"), commands.add_parser("prove")
    for command in (looking, proving):
        command.add_argument("--root", type=Path, default=Path("/"))
        command.add_argument("--library-path", default=environment("LD_LIBRARY_PATH"))
        command.add_argument("--out", type=Path)
    looking.add_argument("--uid", type=int)
    looking.add_argument("--baseline", action="append", default=[])
    proving.add_argument("expect", type=Path)
    given = parser.parse_args(words)
    paths = given.library_path.split(":") if given.library_path else []
    own = [HERE, *([given.out] if given.out else [])]
    problems: list[str] = []
    try:
        if given.command == "look":
            facts = look(Tree(given.root, own), paths, given.uid, places(given.baseline))
        else:
            tree = Tree(given.root, [*own, given.expect])
            facts, problems = prove(expected(given.expect), tree, paths, os.getuid())
            facts["problems"] = problems
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"proof: {error}\n")
        return 2
    text = json.dumps(facts, indent=1) + "\n"
    if given.out:
        given.out.write_text(text)
    elif given.command == "look":
        sys.stdout.write(text)
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0
