"""Images looked into on a real engine and in a real registry: ours, others', and hostile ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployer import images
from deployer.compat.requirement import official
from tests.e2e.conftest import Box
from tests.e2e.test_build import docker
from tests.images.test_proof_look import compiled, cudnn, fat, installed

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.docker,
    pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc"),
]
SITE = "opt/venv/lib/python3.11/site-packages"
NVIDIA = {
    "NVIDIA_REQUIRE_CUDA": official("12.9.1") or "",
    "NV_CUDA_CUDART_VERSION": "12.9.79-1",
    "CUDA_VERSION": "12.9.1",
    "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
}
CARD = ("--gpu", "RTX 4090", "--driver")
Import = Callable[..., str]


@pytest.fixture
def imported(tmp_path: Path) -> Iterator[Import]:
    """Makes an image `trial-PID/NAME` of a folder, from scratch, with the words of a Dockerfile."""
    names = []

    def make(folder: Path, name: str, *words: str, platform: str = "linux/amd64") -> str:
        archive = tmp_path / "image.tar"
        subprocess.run(["tar", "-C", folder, "--owner=0", "--group=0", "-cf", archive, "."], check=True)
        names.append(reference := name if "/" in name else f"trial-{os.getpid()}/{name}")
        changes = [word for change in words for word in ("--change", change)]
        docker("import", "--platform", platform, *changes, str(archive), reference)
        return reference

    yield make
    for name in names:
        subprocess.run(["docker", "rmi", "-f", name], capture_output=True)


def static(folder: Path) -> Path:
    """A folder with one program, which needs nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hello.c").write_text('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
    subprocess.run(["gcc", "-static", "-Os", "-o", folder / "hello", folder / "hello.c"], check=True)
    (folder / "hello.c").unlink()
    return folder


def torch(root: Path) -> Path:
    """A folder like an image of torch on a base of NVIDIA's: two cuDNNs, of which the wheel's is taken."""
    cudnn(root / SITE / "nvidia/cudnn/lib", 92000)
    installed(root, "nvidia-cudnn-cu12", "9.20.0.48", "nvidia/cudnn/lib/libcudnn.so.9")
    base = root / "usr/local/cuda/lib64"
    compiled(base / "libcudnn.so.9.10.2", "SHIM=91002", soname="libcudnn.so.9")
    (base / "libcudnn.so.9").symlink_to("libcudnn.so.9.10.2")
    compiled(base / "libcudart.so.12.9.79", "RUNTIME=12090", soname="libcudart.so.12")
    (base / "libcudart.so.12").symlink_to("libcudart.so.12.9.79")
    code = root.parent / "code"
    code.write_bytes(fat([(2, 80, 0, 8), (2, 86, 0, 8), (2, 90, 0, 8)]))
    needs = (root / SITE / "nvidia/cudnn/lib/libcudnn.so.9", base / "libcudart.so.12")
    compiled(
        root / SITE / "torch/lib/libtorch_cuda.so",
        f'FATBIN="{code}"',
        soname="libtorch_cuda.so",
        rpath="$ORIGIN/../../nvidia/cudnn/lib",
        old=True,
        needs=needs,
    )
    installed(root, "torch", "2.8.0+cu129", "torch/lib/libtorch_cuda.so")
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text('ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04.2 LTS"\n')
    return root


def env(**values: str) -> str:
    return "ENV " + " ".join(f'{key}="{value}"' for key, value in values.items())


def inspect(box: Box, reference: str, *words: str, code: int = 0) -> dict[str, Any]:
    return dict(box.json("images", "inspect", reference, *words, code=code))


def containers() -> dict[str, int]:
    """All that look into images here, each with the process that made it."""
    form = '{{.ID}} {{.Label "io.deployer.owner"}}'
    lines = docker("ps", "-a", "--filter", "label=io.deployer.once=look", "--format", form).splitlines()
    return {line.split()[0]: int(line.rpartition(":")[2]) for line in lines}


def left_over() -> list[str]:
    """Those whose process has ended."""
    return [name for name, process in containers().items() if not Path(f"/proc/{process}").exists()]


def test_an_image_without_shell_and_libraries_is_read(box: Box, tmp_path: Path, imported: Import) -> None:
    reference = imported(static(tmp_path / "root"), "scratch:1", 'ENTRYPOINT ["/hello"]')
    found = inspect(box, reference)
    assert found["fits"] and found["verdict"]["reason"] == "it needs no GPU"
    facts = found["contents"]["facts"]
    assert facts["sizes"]["files"] == 1 and facts["uid"] == 0
    text = box.run("images", "inspect", reference).stdout
    assert "no known system, 1 file of " in text and "its user is root" in text
    assert left_over() == []


def test_nothing_of_a_hostile_image_runs_and_what_is_shut_is_read(
    box: Box, tmp_path: Path, imported: Import
) -> None:
    root = static(tmp_path / "root")
    source = tmp_path / "evil.c"
    source.write_text(
        "#include <unistd.h>\n__attribute__((constructor)) static void run(void) { _exit(99); }\n"
        "unsigned la_version(unsigned version) { _exit(98); return version; }\n"
    )
    (root / "lib").mkdir()
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", root / "lib/evil.so", source], check=True)
    for name in ("libc.so.6", "libm.so.6", "libz.so.1", "libexpat.so.1"):
        shutil.copy(root / "lib/evil.so", root / "lib" / name)
    (root / "etc").mkdir()
    (root / "etc/ld.so.preload").write_text("/lib/evil.so\n")
    (root / "etc/passwd").write_text("root:x:0:0::/:/\nengine:x:1234:1234::/:/\n")
    cudnn(root / "secret/lib", 91002)
    (root / "secret").chmod(0o700)
    (root / "hello").chmod(0o4755)
    variables = env(
        LD_PRELOAD="/lib/evil.so", LD_AUDIT="/lib/evil.so", LD_LIBRARY_PATH="/lib", PYTHONHOME="/"
    )
    more = (
        "USER engine",
        "VOLUME /data",
        'CMD ["/hello", "\x1b[31m"]',
        'HEALTHCHECK --interval=1s CMD ["/hello"]',
    )
    reference = imported(root, "evil:1", variables, *more)
    found = inspect(box, reference)
    facts = found["contents"]["facts"]
    assert facts["uid"] == 1234 and facts["files"]["setuid"] == ["/hello"]
    assert facts["files"]["unreadable"] == []
    assert "/secret/lib/libcudnn.so.9" in [one["path"] for one in facts["libraries"]]
    text = box.run("images", "inspect", reference).stdout
    assert "\x1b" not in text and "a container gets anew: /data" in text
    assert left_over() == []


def test_a_foreign_image_with_two_cudnns_is_judged_for_a_host(
    box: Box, tmp_path: Path, imported: Import
) -> None:
    label = "LABEL com.nvidia.cudnn.version=9.10.2.21-1"
    reference = imported(torch(tmp_path / "root"), "cuda:12.9.1", env(**NVIDIA), label)
    good = inspect(box, reference, *CARD, "580.65.06")
    assert good["verdict"]["reason"] == "driver 580.65.06 speaks CUDA 13.0" and good["lies"] == []
    (taken,) = good["contents"]["cudnn"]
    assert taken["version"] == "9.20.0.48" and taken["by"].startswith("RPATH of ")
    assert taken["others"] == ["/usr/local/cuda/lib64/libcudnn.so.9.10.2"]
    assert good["contents"]["engines"] == {"torch": "2.8.0+cu129"}
    assert good["contents"]["compiled"][0]["sass"] == {"8.0": 1, "8.6": 1, "9.0": 1}
    old = inspect(box, reference, *CARD, "550.54", code=0)
    assert old["verdict"]["verdict"] == "minor", (
        "it has no compat libraries, whatever its environment suggests"
    )
    hook = inspect(box, reference, *CARD, "550.54", "--inject", "hook", code=1)
    assert "unsatisfied condition: cuda>=12.9" in hook["verdict"]["error"]
    new = inspect(box, reference, "--gpu", "RTX 5090", "--driver", "580.65.06", code=1)
    assert "its code is for 8.0 8.6 9.0, not for the RTX 5090" in new["verdict"]["reason"]
    text = box.run("images", "inspect", reference, *CARD, "580.65.06").stdout
    for line in (
        "cuda>=12.9, or one of 60 pairs of brand and driver branch",
        "com.nvidia.cudnn.version 9.10.2.21-1",
        "Ubuntu 24.04.2 LTS, 2 Python distributions",
        "also reachable: /usr/local/cuda/lib64/libcudnn.so.9.10.2",
        "GPU code   8.0 8.6 9.0: /",
    ):
        assert line in text, text


def test_a_lying_label_of_ours_is_named(box: Box, tmp_path: Path, imported: Import) -> None:
    labels = {"io.deployer.image": "transformers", "io.deployer.pin.torch": "2.8.0"}
    labels |= {"io.deployer.pin.cudnn": "9.20.0.48", "io.deployer.compute-capability": "8.0 9.0 12.0"}
    words = "LABEL " + " ".join(f'{key}="{value}"' for key, value in labels.items())
    reference = imported(torch(tmp_path / "root"), "lying:1", env(**NVIDIA), words)
    found = inspect(box, reference, *CARD, "580.65.06", code=1)
    assert found["verdict"]["runs"] and not found["fits"]
    text = " ".join(found["lies"])
    assert "cudnn: the loader reaches 2 files for libcudnn.so.9" in text
    assert "architectures: the label says 8.0 9.0 12.0, and " in text and "has code for 8.0 8.6 9.0" in text
    assert "torch" not in [lie.partition(":")[0] for lie in found["lies"]]
    shown = box.run("images", "inspect", reference, *CARD, "580.65.06", code=1).stdout
    assert "\nlie        cudnn: " in shown


def test_a_remote_image_is_judged_without_a_layer(
    box: Box, registry: str, tmp_path: Path, imported: Import
) -> None:
    root = torch(tmp_path / "root")
    single = [
        imported(root, f"{registry}/nvidia/cuda:{name}", env(**NVIDIA), platform=f"linux/{name}")
        for name in ("amd64", "arm64")
    ]
    for reference in single:
        docker("push", "-q", reference)
        docker("rmi", reference)
    index = f"{registry}/nvidia/cuda:12.9.1"
    docker("buildx", "imagetools", "create", "-t", index, *single)
    found = inspect(box, index, *CARD, "550.54", code=1)
    assert found["image"]["place"] == "registry" and found["image"]["platforms"] == [
        "linux/amd64",
        "linux/arm64",
    ]
    assert found["image"]["platform"] == "linux/amd64" and found["contents"] is None
    assert found["image"]["size"] == sum(found["image"]["layers"]) > 0
    assert found["verdict"]["code"] == 804, (
        "by its environment it has compat libraries, which GeForce cannot use"
    )
    there = json.loads(docker("buildx", "imagetools", "inspect", single[0], "--format", "{{json .Manifest}}"))
    assert found["image"]["identity"] == there["digest"]
    assert inspect(box, index, *CARD, "580.65.06")["fits"]
    other = inspect(box, single[1], *CARD, "580.65.06", code=1)
    assert other["problems"] == ["it is made for linux/arm64, and the host is linux/amd64"]
    assert "not known: its layers are not here" in box.run("images", "inspect", index, code=None).stdout
    assert subprocess.run(["docker", "image", "inspect", index], capture_output=True).returncode
    absent = box.run("images", "inspect", f"{registry}/nvidia/cuda:none", code=1)
    assert "no such image is in that registry" in absent.stderr and "Traceback" not in absent.stderr
    down = box.run("images", "inspect", "localhost:9/nvidia/cuda:1", code=1)
    assert "hint: it is not reached from here" in down.stderr
    assert "names no image" in box.run("images", "inspect", "a b", code=2).stderr


def test_ours_is_what_it_says_and_has_a_bill_of_materials(box: Box, tmp_path: Path) -> None:
    reference = box.json("build", "gateway:cpu")["images"][0]["reference"]
    found = inspect(box, "gateway:cpu")
    assert found["image"]["reference"] == reference and found["fits"] and found["lies"] == []
    assert "labels     what they promise is there" in box.run("images", "inspect", "gateway:cpu").stdout
    listed = {one["references"][0]: one for one in box.json("images", "list")["images"]}
    assert listed[reference]["present"] and listed[reference]["name"] == "gateway:cpu"
    remote = box.run("images", "inspect", "--remote", f"localhost:9/{reference}", code=1)
    assert "cannot be read from its registry" in remote.stderr
    pytest.importorskip("cyclonedx")
    bill = tmp_path / "bill.json"
    box.run("images", "sbom", reference, "-o", str(bill))
    box.run("build", "gateway:cpu", "--sbom", str(tmp_path / "bills"))
    assert (tmp_path / "bills/gateway-cpu.cdx.json").read_bytes() == bill.read_bytes()
    names = {one["name"] for one in json.loads(bill.read_text())["components"]}
    facts = found["contents"]["facts"]
    assert names >= {one["name"] for key in ("debian", "distributions") for one in facts[key]}
    hashed = [one for one in json.loads(bill.read_text())["components"] if "hashes" in one]
    assert len(hashed) > 80, "every Debian package of the lock has its hash"


def test_what_no_recipe_makes_is_old_and_removed_unless_used(
    box: Box, tmp_path: Path, imported: Import
) -> None:
    name, digest = f"trial{os.getpid()}", "0123456789ab"
    label = f"LABEL io.deployer.image={name} io.deployer.variant=cpu"
    root = static(tmp_path / "root")
    old = imported(root, f"deployer/{name}:cpu-{digest}", label)
    made_of_it = imported(root, f"deployer/{name}:mine", label)
    container = docker("create", old, "/hello").strip()
    try:
        used = box.run("images", "prune", name, "--yes", code=1)
        assert f"{old} stays: " in used.stderr
    finally:
        docker("rm", container)
    asked = box.run("images", "prune", name, code=130)
    assert old in asked.stdout and made_of_it not in asked.stdout
    done = box.run("images", "prune", name, "--yes")
    assert "removed 1: " in done.stderr
    assert box.run("images", "prune", name).stdout == "nothing is old\n"
    docker("image", "inspect", made_of_it)


def started(child: subprocess.Popen[str]) -> str:
    """The container that this command made, once it is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for identity, process in containers().items():
            about = subprocess.run(["docker", "inspect", identity], capture_output=True, text=True).stdout
            if process == child.pid and '"Running": true' in about:
                return identity
        assert child.poll() is None
    raise AssertionError("no container in 60 s")


def test_a_look_that_hangs_ends_at_its_limit_and_one_that_was_killed_is_swept(
    box: Box, tmp_path: Path, imported: Import
) -> None:
    root = static(tmp_path / "root")
    for number in range(40_000):  # long enough to be caught at
        (root / f"{number % 40}").mkdir(exist_ok=True)
        (root / f"{number % 40}/{number}").touch()
    reference = imported(root, "many:1")
    inspect(box, reference)
    child = box.start("images", "inspect", reference, "--limit", "5")
    docker("pause", started(child))
    out, err = child.communicate(timeout=60)
    assert child.returncode == 1, err
    assert "was not done after 5.0 s" in " ".join(out.split())
    assert left_over() == []
    killed = box.start("images", "inspect", reference)
    identity = started(killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert identity in left_over()
    inspect(box, reference)
    assert left_over() == []
    target = images.target("python", "3.11")
    assert [*(box.home / "sources/look").glob(f"python-{target.reference.rpartition('-')[2]}-*.tar")]
