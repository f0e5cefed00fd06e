"""Fetches the libraries of the chat page again, as deployer/gateway/page/vendor/lock.tsv names them.

`make vendor` compares every file with its hash and writes those that are right; `make vendor WRITE=--write` takes
over new versions that were written into the lock by hand.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "deployer/gateway/page/vendor"
LOCK = VENDOR / "lock.tsv"


def main(write: bool) -> None:
    head, *lines = LOCK.read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    fetched: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for package in sorted({f"{name}@{version}" for name, version, *_ in rows}):
            folder = Path(scratch, package.replace("/", "-"))
            folder.mkdir()
            subprocess.run(
                ["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL
            )
            with tarfile.open(next(folder.glob("*.tgz"))) as archive:
                for member in archive.getmembers():
                    if member.isfile():
                        content = archive.extractfile(member)
                        assert content
                        fetched[f"{package}/{member.name.removeprefix('package/')}"] = content.read()
    wrong = []
    for row in rows:
        name, version, inside, file, digest = row
        content = fetched[f"{name}@{version}/{inside}"]
        row[4] = hashlib.sha256(content).hexdigest()
        if row[4] == digest or write:
            (VENDOR / file).write_bytes(content)
        else:
            wrong.append(f"{file} is {row[4]}, the lock says {digest}")
    if write:
        LOCK.write_text("\n".join([head, *("\t".join(row) for row in rows)]) + "\n")
    sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main(write="--write" in sys.argv[1:])
