"""NVIDIA's Container Toolkit and the CDI specifications."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployer import host
from deployer.host import Questions, Specification, Toolkit, Unknown
from deployer.host.toolkit import cdi, specifications, toolkit
from tests.host.conftest import as_nobody, link, put

LIBRARY = "/usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06"
SPEC: dict[str, Any] = {
    "cdiVersion": "0.6.0",
    "kind": "nvidia.com/gpu",
    "devices": [
        {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}},
        {"name": "GPU-1111", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}},
        {"name": "all", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}},
    ],
    "containerEdits": {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": "/dev/nvidiactl"}, {"path": "/dev/uvm", "hostPath": "/dev/nvidia-uvm"}],
        "mounts": [{"hostPath": LIBRARY, "containerPath": LIBRARY, "options": ["ro"]}],
        "hooks": [{"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook"}],
    },
}
FILES = ("/dev/nvidia0", "/dev/nvidia-uvm", "/dev/nvidiactl", LIBRARY)
FOUND = Specification("/etc/cdi/nvidia.yaml", "0.6.0", ("0", "GPU-1111", "all"), "580.65.06", ())


@pytest.fixture
def whole(ask: Questions) -> Questions:
    """A machine on which everything is there that the specification names."""
    for path in FILES:
        put(ask.root / path.lstrip("/"), "")
    return ask


def spec(name: str, ask: Questions, **change: Any) -> None:
    said = {**SPEC, **change}
    put(ask.root / name, json.dumps(said) if name.endswith("json") else yaml.safe_dump(said, sort_keys=False))


@pytest.mark.parametrize("name", ["nvidia.yaml", "nvidia.yml", "nvidia.json"])
def test_a_specification(name: str, whole: Questions) -> None:
    spec(f"etc/cdi/{name}", whole)
    assert cdi(whole) == (replace(FOUND, path=f"/etc/cdi/{name}"),)


def test_a_comment_before_it_and_no_edits_for_all(whole: Questions) -> None:
    text = "# made by nvidia-ctk\n---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: all\n"
    put(whole.etc / "cdi/nvidia.yaml", text)
    assert cdi(whole) == (Specification("/etc/cdi/nvidia.yaml", "0.5.0", ("all",), None, ()),)


@pytest.mark.parametrize("gone", FILES)
def test_files_that_are_not_there(gone: str, whole: Questions) -> None:
    spec("etc/cdi/nvidia.yaml", whole)
    (whole.root / gone.lstrip("/")).unlink()
    assert cdi(whole) == (replace(FOUND, missing=(gone,)),)


def test_all_missing_files_in_order(ask: Questions) -> None:
    spec("etc/cdi/nvidia.yaml", ask)
    assert cdi(ask) == (replace(FOUND, missing=tuple(sorted(FILES))),)


def test_a_file_that_this_user_may_not_see_is_not_missing(open_folder: Path) -> None:
    here = Questions(open_folder, open_folder, root=open_folder)
    spec("etc/cdi/nvidia.yaml", here)
    for path in FILES:
        put(open_folder / path.lstrip("/"), "")
    (open_folder / "dev").chmod(0)
    code = "print(probe(Questions(Path('/'), Path('/'), root=Path(sys.argv[1]))).cdi[0].missing)"
    try:
        assert as_nobody(code, open_folder) == "()"
    finally:
        (open_folder / "dev").chmod(0o755)


@pytest.mark.parametrize(
    ("paths", "driver"),
    [
        pytest.param(["/usr/lib64/libnvidia-ml.so.570.26"], "570.26", id="by the other library"),
        pytest.param(["/usr/lib64/libcuda.so.1", "/usr/bin/nvidia-smi"], None, id="no version"),
        pytest.param(["/usr/lib64/libcudadebugger.so.580.65.06"], None, id="another library"),
        pytest.param(["/a/libcuda.so.575.57.08", "/b/libcuda.so.580.65.06"], "580.65.06", id="two"),
    ],
)
def test_the_driver_that_a_specification_was_made_for(
    paths: list[str], driver: str | None, ask: Questions
) -> None:
    edits = {"mounts": [{"hostPath": path, "containerPath": path} for path in paths]}
    spec("etc/cdi/nvidia.yaml", ask, containerEdits=edits)
    assert [found.driver for found in cdi(ask)] == [driver]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        pytest.param("nvidia.yaml", "nvidia.com/gpu: [", "ValueError: while parsing", id="yaml"),
        pytest.param("nvidia.json", '{"kind": "nvidia.com/gpu", ', "JSONDecodeError", id="json"),
        pytest.param("nvidia.yaml", "kind: nvidia.com/gpu\ncdiVersion: 0.6.0\n", "KeyError: 'devices'", id="half"),
        pytest.param("nvidia.yaml", "kind: nvidia.com/gpu\ndevices: [1]\n", "AttributeError", id="odd"),
        pytest.param("nvidia.yaml", "- nvidia.com/gpu\n", "TypeError", id="a list"),
        pytest.param("nvidia.yaml", "nvidia.com/gpu\n", "TypeError", id="a word"),
        pytest.param("nvidia.yaml", b"# nvidia.com/gpu \xff\xfe", "UnicodeDecodeError", id="no text"),
    ],
)  # fmt: skip
def test_a_broken_specification_says_why_and_the_others_are_read(
    name: str, text: str | bytes, reason: str, whole: Questions
) -> None:
    put(whole.etc / "cdi" / name, text)
    spec("etc/cdi/other.yaml", whole)
    broken, good = cdi(whole)
    assert broken == Specification(f"/etc/cdi/{name}", "", (), None, (), broken.unreadable)
    assert str(broken.unreadable).startswith(reason)
    assert good == replace(FOUND, path="/etc/cdi/other.yaml")


@pytest.mark.parametrize(
    "kind", ["nvidia.com/gds", "management.nvidia.com/gpu", "nvidia.com/gpu-vfio", "vendor.example/card"]
)
def test_another_kind_is_nobodys_business(kind: str, whole: Questions) -> None:
    spec("etc/cdi/other.yaml", whole, kind=kind, annotations={"beside": "nvidia.com/gpu"})
    assert cdi(whole) == ()


@pytest.mark.parametrize("name", ["nvidia.yaml.bak", "nvidia.txt", "nvidia"])
def test_other_files_are_not_read(name: str, whole: Questions) -> None:
    put(whole.etc / "cdi" / name, yaml.safe_dump(SPEC))
    assert cdi(whole) == ()


def test_both_folders_are_read_in_the_order_of_engines(whole: Questions) -> None:
    spec("var/run/cdi/a.yaml", whole)
    spec("etc/cdi/b.yaml", whole)
    spec("etc/cdi/a.json", whole)
    assert [s.path for s in cdi(whole)] == ["/etc/cdi/a.json", "/etc/cdi/b.yaml", "/var/run/cdi/a.yaml"]


@pytest.mark.parametrize("first", ["/var/run/cdi", "/run/cdi"])
def test_a_folder_with_two_names_is_read_once(first: str, whole: Questions) -> None:
    spec("run/cdi/nvidia.yaml", whole)
    link(whole.root / "var/run", "../run")
    folders = ("/etc/cdi", first, "/var/run/cdi", "/run/cdi")
    assert [s.path for s in specifications(folders, whole)] == [f"{first}/nvidia.yaml"]


def test_a_machine_without_specifications(ask: Questions) -> None:
    assert cdi(ask) == ()
    assert toolkit(ask) is None


CONFIG = """\
#accept-nvidia-visible-devices-as-volume-mounts = false
disable-require = true  # for a test
supported-driver-capabilities = "compute,utility"
swarm-resource = ""

[nvidia-container-cli]
#debug = "/var/log/nvidia-container-toolkit.log"
environment = []
load-kmods = true
ldconfig = "@/sbin/ldconfig.real"

[nvidia-container-runtime]
  log-level = "info"
mode = "auto"
runtimes = ["docker-runc", "runc"]

[nvidia-container-runtime.modes.csv]
mount-spec-path = "/etc/nvidia-container-runtime/host-files-for-container.d"

[nvidia-container-runtime.modes.cdi]
annotation-prefixes = ["cdi.k8s.io/"]
default-kind = "nvidia.com/gpu"

[features]
"""


def test_settings_of_the_toolkit(ask: Questions) -> None:
    put(ask.root / "usr/bin/nvidia-ctk", "", 0o755)
    put(ask.etc / "nvidia-container-runtime/config.toml", CONFIG)
    assert toolkit(ask) == Toolkit(
        hook=False,
        runtime=False,
        settings={
            "disable-require": "true",
            "supported-driver-capabilities": "compute,utility",
            "swarm-resource": "",
            "nvidia-container-cli.load-kmods": "true",
            "nvidia-container-cli.ldconfig": "@/sbin/ldconfig.real",
            "nvidia-container-runtime.log-level": "info",
            "nvidia-container-runtime.mode": "auto",
            "nvidia-container-runtime.modes.csv.mount-spec-path": (
                "/etc/nvidia-container-runtime/host-files-for-container.d"
            ),
            "nvidia-container-runtime.modes.cdi.default-kind": "nvidia.com/gpu",
        },
    )


@pytest.mark.parametrize(
    ("programs", "found"),
    [
        pytest.param(["usr/bin/nvidia-container-runtime-hook"], Toolkit(True, False), id="hook"),
        pytest.param(["usr/local/bin/nvidia-container-runtime"], Toolkit(False, True), id="runtime"),
        pytest.param(["usr/bin/nvidia-ctk"], Toolkit(False, False), id="tool"),
        pytest.param(
            [f"usr/local/nvidia/toolkit/nvidia-container-runtime{end}" for end in ("", "-hook")],
            Toolkit(True, True),
            id="of the operator",
        ),
        pytest.param(["usr/bin/nvidia-smi"], None, id="none"),
    ],
)
def test_programs_of_the_toolkit(programs: list[str], found: Toolkit | None, ask: Questions) -> None:
    for path in programs:
        put(ask.root / path, "", 0o755)
    assert toolkit(ask) == found


def test_settings_that_are_no_text_are_unknown(ask: Questions) -> None:
    put(ask.root / "usr/bin/nvidia-ctk", "", 0o755)
    put(ask.etc / "nvidia-container-runtime/config.toml", b"mode = \xff")
    assert isinstance(host.probe(ask).toolkit, Unknown)
