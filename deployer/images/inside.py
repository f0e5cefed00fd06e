"""A program of its own, which needs Python alone: the proof's facts of this file system, and what licences it tells.

`images/look.py` runs it in a container of any image, by a Python that is mounted beside it.

    inside.py USER LIBRARY_PATH OUT
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

WORD = re.compile(r"^(License-Expression|License): *(\S.*)\n(?![ \t])", re.MULTILINE)
CLASSIFIER = re.compile(r"^Classifier: License :: (.+)$", re.MULTILINE)


def text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def number(user: str) -> int | None:
    """The user that an image names, as a number; None when its list of users does not have the name."""
    name = user.split(":")[0] or "0"
    rows = (line.split(":") for line in text("/etc/passwd").splitlines())
    known = {row[0]: row[2] for row in rows if len(row) > 2}
    word = known.get(name, name)
    return int(word) if word.isdigit() else None


def of_python(metadata: str) -> dict[str, Any]:
    """What a METADATA file says of licences, where that is one line."""
    head = metadata.partition("\n\n")[0] + "\n"
    found: dict[str, Any] = {name: value.strip() for name, value in WORD.findall(head)}
    classifiers = [word.split(" :: ")[-1] for word in CLASSIFIER.findall(head)]
    return found | ({"classifiers": classifiers} if classifiers else {})


def of_debian(copyright_file: str) -> str | None:
    """The licence of a package whose copyright file can be read by programs and names one alone."""
    if not copyright_file.startswith("Format:"):
        return None
    names = set(re.findall(r"^License: *(\S.*)$", copyright_file, re.MULTILINE))
    return names.pop().strip() if len(names) == 1 else None


def main(words: list[str]) -> int:
    user, paths, out = words
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    uid = number(user)
    told = ["--library-path", paths, "--out", out, *(["--uid", str(uid)] if uid else [])]
    code: int = importlib.import_module("proof.command").main(["look", *told])
    if code:
        return code
    facts: dict[str, Any] = json.loads(text(out))
    python = {one["path"]: of_python(text(f"{one['path']}/METADATA")) for one in facts["distributions"]}
    debian = {
        one["name"]: of_debian(text(f"/usr/share/doc/{one['name']}/copyright")) for one in facts["debian"]
    }
    facts["licences"] = {
        "python": {path: said for path, said in python.items() if said},
        "debian": {name: said for name, said in debian.items() if said},
    }
    facts["uid"] = uid
    Path(out).write_text(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
