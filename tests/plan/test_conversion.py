"""Conversions as they are made: once, whole or not at all. Programs here are small scripts; tests/e2e has real ones."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployer.errors import LaunchError, ModelError
from deployer.fetch import Web
from deployer.home import Home
from deployer.images.bake import BuildSettings
from deployer.models import Model, Store, convert
from deployer.plan import Workshop
from deployer.plan import convert as make
from deployer.progress import Silent
from deployer.runtimes import ProcessRuntime
from tests.models.headers import CONFIG, llama
from tests.servers import wait_until

SAFETENSORS = convert.target("safetensors")
# What stands for Python in the engine: `python SCRIPT IN OUT`.
GOOD = f"""#!/bin/sh
ls -A "$3" > "$(dirname "$0")/found"
echo once >> "$(dirname "$0")/runs"
printf '%s' '{json.dumps(CONFIG)}' > "$3/config.json"
cp "$2" "$3/model.safetensors"
"""
HALF = """#!/bin/sh
cp "$2" "$3/model.safetensors"
mkdir "$3/more"
touch "$3/more/half" "$(dirname "$0")/began"
"""


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    home = Home(tmp_path / "home")
    return Workshop(home, Web(), BuildSettings(), ProcessRuntime(home, {"PATH": "/usr/bin:/bin"}), Silent())


@pytest.fixture
def origin(shop: Workshop) -> Model:
    def fill(folder: Path) -> dict[str, str]:
        (folder / "tiny-Q4_1.gguf").write_bytes(llama())
        return {}

    return Store(shop.home).add("tiny", source="hf://a/tiny", revision="c0ffee", licence="mit", make=fill)


def engine(tmp_path: Path, script: str) -> str:
    """A transformers engine whose Python is `script`."""
    folder = tmp_path / "engine-1/bin"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "python").write_text(script)
    (folder / "python").chmod(0o755)
    return str(folder / "transformers")


def test_a_conversion_is_made_once(origin: Model, shop: Workshop, tmp_path: Path) -> None:
    program = engine(tmp_path, GOOD)
    made = make(origin, SAFETENSORS, shop, program=program)
    assert make(origin, SAFETENSORS, shop, program=program) == made == Store(shop.home).get(made.id)
    assert (tmp_path / "engine-1/bin/runs").read_text() == "once\n"
    assert (made.converted_from, made.source, made.revision, made.licence) == ("tiny", "hf://a/tiny", "c0ffee", "mit")
    (step,) = made.recipe
    assert (step.tool, step.engine) == ("gguf_to_safetensors.py", "engine-1")
    assert str(tmp_path) not in " ".join(step.arguments), "no path of this machine"
    assert made.id == convert.identity("tiny", SAFETENSORS)
    assert list((shop.home.root / "tmp").iterdir()) == []


def test_a_program_that_fails_leaves_no_model(origin: Model, shop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"gguf_to_safetensors\.py failed \(exit code 5\)"):
        make(origin, SAFETENSORS, shop, program=engine(tmp_path, HALF + "exit 5\n"))
    assert [one.id for one in Store(shop.home).all()] == ["tiny"]
    make(origin, SAFETENSORS, shop, program=engine(tmp_path, GOOD))
    assert (tmp_path / "engine-1/bin/found").read_text() == "", "nothing of the first try was there"
    assert {path.name for path in (shop.home.models / ".staging").iterdir()} == set()


def test_a_program_that_writes_no_model(origin: Model, shop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        make(origin, SAFETENSORS, shop, program=engine(tmp_path, "#!/bin/sh\necho '{}' > \"$3/config.json\"\n"))
    assert [one.id for one in Store(shop.home).all()] == ["tiny"]


MAKE = """
import sys
from pathlib import Path
from deployer.fetch import Web
from deployer.home import Home
from deployer.images.bake import BuildSettings
from deployer.models import Store, convert
from deployer.plan import Workshop, convert as make
from deployer.progress import Silent
from deployer.runtimes import ProcessRuntime
home = Home(Path(sys.argv[1]))
shop = Workshop(home, Web(), BuildSettings(), ProcessRuntime(home, {"PATH": "/usr/bin:/bin"}), Silent())
make(Store(home).get("tiny"), convert.target("safetensors"), shop, program=sys.argv[2])
"""


def test_a_kill_leaves_no_model_and_no_program(origin: Model, shop: Workshop, tmp_path: Path) -> None:
    slow = engine(tmp_path, HALF + "echo $$ > $(dirname $0)/pid\nexec sleep 600\n")
    child = subprocess.Popen([sys.executable, "-c", MAKE, str(shop.home.root), slow])
    pid = tmp_path / "engine-1/bin/pid"
    wait_until(lambda: pid.exists() and pid.read_text().strip() != "")
    child.send_signal(signal.SIGKILL)
    child.wait()
    deadline = time.monotonic() + 5
    while Path("/proc", pid.read_text().strip()).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path("/proc", pid.read_text().strip()).exists(), "the program ends with its parent"
    assert [one.id for one in Store(shop.home).all()] == ["tiny"]
    made = make(origin, SAFETENSORS, shop, program=engine(tmp_path, GOOD))
    assert (tmp_path / "engine-1/bin/found").read_text() == ""
    assert {f.path for f in made.files} == {"config.json", "model.safetensors"}
