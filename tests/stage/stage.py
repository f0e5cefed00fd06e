"""A described host as a place where the real code runs: files, fake libraries, an engine, a network.

with Stage("h100", folder, build(folder)) as stage:
    host = look(stage)                       # what the real probe says of it
    done = run(stage, "check", "--json")     # the whole program
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deployer.host import Host, from_json
from tests.stage import describe, engine, tree

HERE = Path(__file__).parent
LIBRARIES = {"nvml": "libnvidia-ml.so.1", "cuda": "libcuda.so.1", "libc": "libstage.so"}
CERTIFICATE = "places.pem"
FLAGS = ("-std=gnu11", "-O1", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror")
PLACES = ("huggingface.co",)  # asked over TLS
TAKEN, PYTHON, VERSION, SECONDS = "2026-12-01T00:00:00Z", "3.12.3", "0", 0.1  # of hosts made steady

# What `deployer check` asks, printed as JSON.
LOOK = """
import json, os
from pathlib import Path
from deployer import host, profile
from deployer.cli.place import Place
from deployer.home import Home
profiles = tuple(profile.load(path) for path in profile.shipped())
place = Place(Home(Path(os.environ["DEPLOYER_HOME"])), os.environ["DOCKER_HOST"])
ports = tuple(sorted({p.serving.port for p in profiles}))
print(json.dumps(host.to_json(host.probe(place.questions(profiles, ports=ports)))), flush=True)
os._exit(0)  # a thread in a call that never returns would be waited for
"""


def compiler() -> str | None:
    """The C compiler, None where the stage cannot be built."""
    return next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def missing() -> str | None:
    """Why there can be no stage here, None where there can."""
    if not sys.platform.startswith("linux"):
        return "the stage is for Linux"
    if not compiler():
        return "there is no C compiler"
    return None if shutil.which("openssl") else "there is no openssl for a certificate"


def build(folder: Path) -> Path:
    """The three libraries and the certificate of the places, made in `folder`. Raises CalledProcessError."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, name in LIBRARIES.items():
        command = [
            compiler() or "cc",
            *FLAGS,
            f"-Wl,-soname,{name}",
            f"{HERE}/{source}.c",
            "-o",
            folder / name,
        ]
        subprocess.run([*command, "-lpthread", "-ldl"], check=True)
    names = ",".join(f"DNS:{name}" for name in PLACES)
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=stage"
    made = [f"{folder}/key", f"{folder}/certificate"]
    subprocess.run(
        [
            "openssl",
            *request.split(),
            "-addext",
            f"subjectAltName={names}",
            "-keyout",
            made[0],
            "-out",
            made[1],
        ],
        check=True,
        capture_output=True,
    )
    (folder / CERTIFICATE).write_text("".join(Path(name).read_text() for name in made))
    return folder


class Stage:
    """The host that `said` describes, by name or as a whole, in `folder`, while it is entered."""

    def __init__(self, said: str | describe.Description, folder: Path, built: Path) -> None:
        self.said = describe.load(said) if isinstance(said, str) else said
        self.folder, self.built = folder.resolve(), built
        self.root = self.folder / "root"
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        # A socket's path may have 107 letters.
        self._short = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="stage-")))
        self.socket = self._short / "docker.sock"
        self.root.mkdir(parents=True)
        has_libraries = bool((self.said["driver"] or {}).get("library"))
        tree.write(self.said, self.root, self.built if has_libraries else None)
        empty = self.folder / "empty"  # hides a real library of this machine from a host that has none
        for name in LIBRARIES.values():
            tree.put(empty / name, b"")
        self._libraries = self.root / tree.library_folder(self.said) if has_libraries else empty
        said = self.said["engine"]
        self._stack.enter_context(engine.engine(said, self.socket))
        ports = self._stack.enter_context(engine.network(self.said, self.built / CERTIFICATE))
        played = describe.play(self.said, self.root, ports)
        if said and said["state"] == "denied":
            played["libc"]["denied"] = [*played["libc"]["denied"], str(self.socket)]
        self.description = self.folder / "host.json"
        self.description.write_text(json.dumps(played, indent=1))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def home(self) -> Path:
        return self.root / self.said["home"].lstrip("/")


def environment(stage: Stage) -> dict[str, str]:
    """In which a program believes that it runs on the described host."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "COVERAGE_PROCESS_START") if key in os.environ}
    return {
        **kept,
        "DEPLOYER_ROOT": str(stage.root),
        "DEPLOYER_HOME": str(stage.home),
        "DOCKER_HOST": f"unix://{stage.socket}",
        "HOME": str(stage.root / "home/ubuntu"),
        "TMPDIR": str(stage.root / "tmp"),
        "SSL_CERT_FILE": str(stage.built / CERTIFICATE),
        "LD_PRELOAD": str(stage.built / LIBRARIES["libc"]),
        "LD_LIBRARY_PATH": str(stage._libraries),
        "STAGE_HOST": str(stage.description),
        "PYTHONDONTWRITEBYTECODE": "1",
        **stage.said.get("environment", {}),
    }


def look(stage: Stage) -> Host:
    """What the real probe says of the host. Raises CalledProcessError when it does not end well."""
    host: Host = from_json(Host, look_raw(stage))
    return host


def look_raw(stage: Stage) -> dict[str, Any]:
    """The same as JSON values."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=environment(stage), capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        raise AssertionError(f"{stage.said['name']}: the probe failed\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def steady(raw: dict[str, Any], stage: Stage) -> Host:
    """The host without what differs between two runs or two machines: paths, times, versions."""
    text = json.dumps(raw)
    text = text.replace(f"unix://{stage.socket}", "unix:///var/run/docker.sock")
    text = text.replace(str(stage.socket), "/var/run/docker.sock")
    text = text.replace(f'"{stage.root}"', '"/"').replace(str(stage.root), "")
    found = json.loads(text)
    found |= {"taken": TAKEN, "version": VERSION}
    found["system"]["python"] = PYTHON
    for answer in (*found["sources"].values(), found["base"]):
        if answer and "seconds" in answer:
            answer["seconds"] = SECONDS
    host: Host = from_json(Host, found)
    return host


def described(name: str, built: Path) -> Host:
    """The host as the real probe sees it on the stage."""
    with tempfile.TemporaryDirectory() as folder, Stage(name, Path(folder) / "stage", built) as stage:
        return steady(look_raw(stage), stage)


def run(stage: Stage, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """`deployer` with these arguments, as on the described host."""
    command = [sys.executable, "-m", "deployer", *arguments]
    return subprocess.run(command, env=environment(stage), capture_output=True, text=True, timeout=timeout)
