"""What may import what, read from the source; docs/architecture.md says why."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from deployer import checks, engines, runtimes
from deployer.cli import COMMANDS
from deployer.models.sources import SOURCES
from deployer.profile import schema
from deployer.resources import PACKAGE

# Top to bottom: a room imports only rooms before it.
ORDER = """_version frozen errors quantity description progress resources home report profile host compat fetch images
models sizing engines runtimes checks plan gateway cli"""
ROOMS = ORDER.split()
FILES = sorted(PACKAGE.rglob("*.py"))
# Who may touch processes, sockets and HTTP. The gateway is a program of its own, inside an image; sources of
# models are handed a client by fetch, name its type and catch its errors.
EFFECTS = {"fetch", "images", "host", "runtimes", "plan"}
OUTSIDE = dict.fromkeys(("subprocess", "socket", "docker", "requests"), EFFECTS)
OUTSIDE["aiohttp"] = {"gateway"}
OUTSIDE["httpx"] = EFFECTS | {"models/sources", "models/metadata/remote.py", "cli/chat.py"}
EXEMPT = {"base", "show", "place", "settings", "lock", "push", "schema", "which", "__init__"}


def imports(path: Path) -> set[str]:
    """Dotted names of everything that the file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_keeps_the_order_of_rooms_and_the_limits_of_its_own(path: Path) -> None:
    inside = path.relative_to(PACKAGE)
    room = inside.parts[0].removesuffix(".py")
    names = imports(path)
    if room not in ("__init__", "__main__"):
        ours = {name.split(".")[1] for name in names if name.startswith("deployer.")} - {room}
        above = set() if room == "gateway" else set(ROOMS[: ROOMS.index(room)]) - {"gateway"}
        assert ours <= above, f"{inside} imports {sorted(ours - above)}"
    for module in OUTSIDE.keys() & {name.split(".")[0] for name in names}:
        allowed = any(inside.is_relative_to(place) for place in OUTSIDE[module])
        assert allowed, f"{inside} imports {module}"
    text = path.read_text()
    assert text.count("\n") <= 400
    reads = any(
        (isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"))
        or (isinstance(node, ast.ImportFrom) and node.module == "os")
        for node in ast.walk(ast.parse(text))
    )
    assert not reads or room == "cli" or inside == Path("runtimes/supervisor.py"), "it reads os.environ"


def members(room: str) -> list[str]:
    return sorted(path.stem for path in (PACKAGE / room).glob("*.py") if path.stem not in EXEMPT)


def test_every_member_is_in_its_list() -> None:
    for name in members("checks"):
        assert set(importlib.import_module(f"deployer.checks.{name}").CHECKS) <= set(checks.CHECKS), name
    for name in members("engines"):
        assert importlib.import_module(f"deployer.engines.{name}").ENGINE in engines.ENGINES, name
    for name in members("models/sources"):
        assert importlib.import_module(f"deployer.models.sources.{name}").SOURCE in SOURCES, name
    assert members("cli") == sorted(COMMANDS)


def test_the_profile_schema_knows_the_engines_and_runtimes_that_there_are() -> None:
    assert sorted(schema.ENGINES) == sorted(engine.name for engine in engines.ENGINES)
    assert sorted(schema.RUNTIMES) == sorted(runtimes.RUNTIMES)
