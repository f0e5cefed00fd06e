"""The person's and the company's configuration: defaults for options, from YAML files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from deployer.errors import QuestionError

# Section and key → (command, option) whose default it is. A key that is a list is given once for each entry.
SHARED = ("base", "index_url", "apt_mirror", "ca_cert", "proxy", "wheelhouse")
BUILD = (*SHARED, "registry", "platform", "builder", "cache_from", "cache_to", "provenance")
_LISTS = ("cache_from", "cache_to")
_PATHS = ("ca_cert", "wheelhouse")


def files() -> tuple[Path, ...]:
    """Where configuration may lie, the machine's before the person's; `$DEPLOYER_CONFIG` stands for both."""
    if named := os.environ.get("DEPLOYER_CONFIG"):
        return (Path(named),)
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path("/etc/deployer/config.yaml"), own / "deployer/config.yaml"


def defaults() -> dict[str, dict[str, Any]]:
    """Defaults of options by command, as click's `default_map` has them; empty where there is no configuration.

    Raises QuestionError for a file that cannot be read, and for keys that mean nothing, with their lines.
    """
    build: dict[str, Any] = {}
    for path in files():
        if os.environ.get("DEPLOYER_CONFIG") or path.is_file():
            build |= _read(path)
    if not build:
        return {}
    shared = {key: value for key, value in build.items() if key in SHARED}
    return {"build": build, "up": shared, "pull": {k: shared[k] for k in ("index_url", "ca_cert") if k in shared}}


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text()
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionError(f"{path} cannot be read: {error}", hint="$DEPLOYER_CONFIG names another") from error
    except yaml.YAMLError as error:
        raise QuestionError(f"{path} is no YAML: {error}", hint="docs/images.md has an example") from error
    if raw is None:
        return {}
    problems = []
    if not isinstance(raw, dict) or not isinstance(raw.get("build") or {}, dict):
        raise QuestionError(f"{path}: a `build:` section is expected", hint="docs/images.md has an example")
    lines = _lines(tree)
    for key in raw.keys() - {"build"}:
        problems.append((lines.get((str(key),), 1), f"`{key}` is not known; there is `build`"))
    build: dict[str, Any] = {}
    for key, value in (raw.get("build") or {}).items():
        line = lines.get(("build", str(key)), 1)
        if key not in BUILD:
            problems.append((line, f"build.{key} is not known; there are {', '.join(BUILD)}"))
        elif key in _LISTS:
            build[key] = value if isinstance(value, list) else [value]
            if not all(isinstance(word, str) for word in build[key]):
                problems.append((line, f"build.{key}: `{value}` is neither a text nor a list of texts"))
        elif not isinstance(value, str):
            problems.append((line, f"build.{key}: `{value}` is not a text"))
        else:
            build[key] = str((path.parent / value).absolute()) if key in _PATHS else value
            if key in _PATHS and not Path(build[key]).exists():
                problems.append((line, f"build.{key}: {build[key]} does not exist"))
    if problems:
        raise QuestionError(
            f"the configuration has {len(problems)} problem{'s' if len(problems) > 1 else ''}",
            hint="docs/images.md lists what it may hold",
            evidence=[f"{path}:{line}: {text}" for line, text in sorted(problems)],
        )
    return build


def _lines(tree: Any) -> dict[tuple[str, ...], int]:
    """The line of each key, down to the second level."""
    found: dict[tuple[str, ...], int] = {}
    for key, value in tree.value:
        found[(key.value,)] = key.start_mark.line + 1
        for inner, _ in value.value if isinstance(value.value, list) and value.id == "mapping" else ():
            found[(key.value, inner.value)] = inner.start_mark.line + 1
    return found
