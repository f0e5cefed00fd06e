"""Compares deployer/compat/data with published wheels and prints what differs; `--write` puts it into the tables.

    make compat-data                  # the difference
    make compat-data WRITE=--write    # and into the tables

Only what a wheel says of itself is derived: torch's default build, its CUDA and cuDNN, and the compute capabilities
in `PYTORCH_RELEASES_CODE_CC`, from three small files inside the wheel, read by HTTP ranges (about 2 MB of
500). What a fat binary holds is not derived; rows that the wheels do not speak of stay as they are.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import re
import ssl
import sys
from pathlib import Path
from typing import Any

import httpx

from deployer.errors import SourceUnreachable
from deployer.fetch.index import default_index
from deployer.fetch.wheel import Listed, listing, metadata, opened
from deployer.quantity import at_least, parse_version

DATA = Path(__file__).resolve().parent.parent / "deployer/compat/data"
OLDEST = "2.6"  # the first row of torch.tsv
MACHINES = ("x86_64", "aarch64")


def wheels(client: httpx.Client, index: str, package: str) -> list[Listed]:
    """The wheels of `package` that are not withdrawn. Raises SourceUnreachable where there are none."""
    found = [f for f in listing(client, index, package) if f.name.endswith(".whl") and not f.yanked]
    if not found:
        raise SourceUnreachable(f"{index} has no wheels of {package}")
    return found


def about(client: httpx.Client, file: Listed) -> dict[str, Any]:
    """`{"cuda", "cudnn", "archs": {cuda: (machine or "", capabilities)}}` of one torch wheel."""
    with opened(client, file) as wheel:
        demands = "\n".join(metadata(wheel).get_all("Requires-Dist", ()))
        version = wheel.read("torch/version.py").decode()
        cuda = re.search(r"^cuda(?:: [^=]+)? = ['\"](\d+\.\d+)", version, re.MULTILINE)
        cudnn = re.search(r"^nvidia-cudnn-cu\d+ ?\(?==([\d.]+)", demands, re.MULTILINE)
        return {
            "cuda": cuda[1] if cuda else None,
            "cudnn": cudnn[1] if cudnn else None,
            "archs": releases(wheel.read("torch/cuda/__init__.py").decode()),
        }


def releases(source: str) -> dict[str, Any]:
    """The literal `PYTORCH_RELEASES_CODE_CC` in torch's source; {} where there is none."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign):
            targets: list[ast.expr] = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        if (
            any(isinstance(t, ast.Name) and t.id == "PYTORCH_RELEASES_CODE_CC" for t in targets)
            and node.value
        ):
            value: dict[str, Any] = ast.literal_eval(node.value)
            return value
    return {}


def derived(client: httpx.Client, index: str, known: list[list[str]]) -> list[list[str]]:
    """The rows of torch.tsv as the wheels on `index` give them; where these are silent, those of `known`."""
    before = {(row[0], row[1]): row for row in known}
    found = dict(before)
    links: dict[str, dict[str, Listed]] = {}
    for file in wheels(client, index, "torch"):
        name = re.fullmatch(
            r"torch-([\d.]+)(?:-\d+)?-cp312-cp312-\w*linux\w*?_(x86_64|aarch64)\.whl", file.name
        )
        if name and at_least(name[1], OLDEST):
            links.setdefault(name[1], {})[name[2]] = file
    for version, machines in sorted(links.items(), key=lambda item: parse_version(item[0])):
        said = {machine: about(client, file) for machine, file in machines.items()}
        default = said.get("x86_64", {}).get("cuda")
        if not default:
            sys.stderr.write(f"torch {version}: no CUDA build for x86_64 on the index, nothing derived\n")
            continue
        code = said["x86_64"]["archs"]
        for cuda in sorted({default, *code}, key=parse_version):
            build = f"cu{cuda.replace('.', '')}"
            old = before.get((version, build), [version, build, "", cuda, "?", "?", "?", "code"])
            new = [version, build, "pypi" if cuda == default else "pytorch", cuda, *old[4:]]
            if cuda == default:
                new[4] = said["x86_64"]["cudnn"] or "?"
                if not said.get("aarch64", {}).get("cuda"):
                    new[6] = "cpu"
            if isinstance(code.get(cuda), dict):  # since 2.13; before, machines were thrown together
                new[5:7] = [_capabilities(code[cuda].get(machine)) for machine in MACHINES]
            found[version, build] = new
    return sorted(found.values(), key=lambda row: (parse_version(row[0]), parse_version(row[3])))


def _capabilities(code: set[int] | None) -> str:
    return " ".join(f"{number // 10}.{number % 10}" for number in sorted(code)) if code else "cpu"


def later_cudnn(client: httpx.Client, index: str) -> list[str]:
    """What cudnn.tsv cannot say yet: versions on the index after its last row."""
    said = []
    rows = [line.split("\t") for line in (DATA / "cudnn.tsv").read_text().splitlines() if line[:1] != "#"]
    for family in ("12", "13"):
        last = [row[1] for row in rows if row[0] == family][-1]
        versions = {file.name.split("-")[1] for file in wheels(client, index, f"nvidia-cudnn-cu{family}")}
        newest = max(filter(re.compile(r"[\d.]+").fullmatch, versions), key=parse_version)
        said.append(f"nvidia-cudnn-cu{family}: newest {newest}, last row from {last}")
    return said


def main() -> int:
    asked = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asked.add_argument(
        "--write", action="store_true", help="write torch.tsv, instead of only showing the difference"
    )
    asked.add_argument("--index-url", default=os.environ.get("PIP_INDEX_URL"), help="[default: pip's]")
    given = asked.parse_args()
    index = given.index_url or default_index()
    trusted = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))
    table = DATA / "torch.tsv"
    before = table.read_text().splitlines(keepends=True)
    head = [line for line in before if line.startswith("#")]
    known = [line.rstrip("\n").split("\t") for line in before if not line.startswith("#")]
    with httpx.Client(verify=trusted, follow_redirects=True, timeout=60) as client:
        try:
            rows = derived(client, index, known)
            cudnn = later_cudnn(client, index)
        except (OSError, SourceUnreachable) as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    after = head + ["\t".join(row) + "\n" for row in rows]
    difference = list(difflib.unified_diff(before, after, "torch.tsv", "torch.tsv from the index"))
    sys.stdout.writelines(difference or ["torch.tsv: nothing differs\n"])
    said = "\n  ".join(["cudnn.tsv is not derived, its facts lie in fat binaries:", *cudnn])
    sys.stderr.write(f"{said}\n")
    if given.write:
        table.write_text("".join(after))
    return 0


if __name__ == "__main__":
    sys.exit(main())
