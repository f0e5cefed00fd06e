"""Facts of an image: its libraries are real ones, compiled here, under the names that matter."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployer.images import proof
from deployer.images.proof import command, files, libraries, loader, packages
from deployer.images.proof.tree import Tree

HERE = Path(__file__).parent
PROGRAM = Path(proof.__file__).parent
SITE = "opt/venv/lib/python3.11/site-packages"
CUDNN = f"{SITE}/nvidia/cudnn/lib"
CUDA = f"{SITE}/nvidia/cu13/lib"
PARTS = ("", "_graph", "_ops", "_heuristic")
# How torch's wheel finds them: RPATH, which is before LD_LIBRARY_PATH; cuDNN's own RUNPATH is after it.
TORCH_RPATH = "$ORIGIN/../../nvidia/cudnn/lib:$ORIGIN/../../nvidia/cu13/lib:$ORIGIN"

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")


def compiled(
    path: Path,
    *defines: str,
    soname: str = "",
    rpath: str = "",
    old: bool = False,
    needs: tuple[Path, ...] = (),
) -> Path:
    """A shared library from cudnn.c; `old` makes it RPATH, not RUNPATH."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [
        "gcc",
        "-shared",
        "-fPIC",
        "-o",
        str(path),
        str(HERE / "cudnn.c"),
        *(f"-D{word}" for word in defines),
    ]
    words += [f"-Wl,-soname,{soname}"] * bool(soname)
    words += [f"-Wl,-rpath,{rpath}", f"-Wl,--{'disable' if old else 'enable'}-new-dtags"] * bool(rpath)
    subprocess.run([*words, "-Wl,--no-as-needed", *map(str, needs), "-ldl"], check=True)
    return path


def cudnn(folder: Path, number: int = 92000, part: int = 0) -> None:
    compiled(folder / "libcudnn.so.9", f"SHIM={number}", soname="libcudnn.so.9", rpath="$ORIGIN")
    for name in PARTS[1:]:
        soname = f"libcudnn{name}.so.9"
        defines = [f"PART={part}"] + ["GRAPH"] * (name == "_graph")
        compiled(folder / soname, *defines, soname=soname, rpath="$ORIGIN")


def installed(root: Path, name: str, version: str, *paths: str) -> None:
    """A distribution's own files about itself, and what it brought."""
    folder = root / SITE / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nVersion: none\n"
    )
    lines = [f"{path},sha256=x,{(root / SITE / path).stat().st_size}\n" for path in paths]
    (folder / "RECORD").write_text("".join([*lines, f"{folder.name}/RECORD,,\n"]))


@functools.cache
def made() -> Path:
    """Built once; tests copy it."""
    root = Path(tempfile.mkdtemp(prefix="proof-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    cudnn(root / CUDNN)
    runtime = compiled(root / CUDA / "libcudart.so.13", "RUNTIME=13000", soname="libcudart.so.13")
    compiled(
        root / SITE / "torch/lib/libtorch_cuda.so",
        soname="libtorch_cuda.so",
        rpath=TORCH_RPATH,
        old=True,
        needs=(root / CUDNN / "libcudnn.so.9", runtime),
    )
    (root / SITE / "torch/__init__.py").write_text(
        "import ctypes, pathlib\n"
        "ctypes.CDLL(str(pathlib.Path(__file__).parent / 'lib/libtorch_cuda.so'))\n"
        "__version__ = '2.13.0+cu130'\n"
        "class version:\n    cuda = '13.0'\n"
        "class _C:\n    _cuda_getArchFlags = staticmethod(lambda: 'sm_75 sm_80 sm_120')\n"
    )
    installed(root, "torch", "2.13.0", "torch/lib/libtorch_cuda.so")
    parts = [f"nvidia/cudnn/lib/libcudnn{part}.so.9" for part in PARTS]
    installed(root, "nvidia-cudnn-cu13", "9.20.0.48", *parts)
    installed(root, "nvidia-cuda-runtime", "13.0.96", "nvidia/cu13/lib/libcudart.so.13")
    for folder in ("usr/lib64", "usr/lib", "etc", "tmp", "var/lib/dpkg/info"):
        (root / folder).mkdir(parents=True)
    names = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12"\n'
    (root / "usr/lib/os-release").write_text(names)
    for path in root.rglob("*"):
        path.chmod(path.stat().st_mode & ~0o022)
    (root / "tmp").chmod(0o1777)
    (root / "lib64").symlink_to("usr/lib64")
    (root / "etc/os-release").symlink_to("/usr/lib/os-release")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A small image with torch, CUDA and cuDNN, as the wheels lay them."""
    mask = os.umask(0o022)
    yield Path(shutil.copytree(made(), tmp_path / "image", symlinks=True))
    os.umask(mask)


def look(root: Path, *words: str) -> dict[str, Any]:
    out = root.parent / "look.json"
    assert command.main(["look", "--root", str(root), "--out", str(out), *words]) == 0
    return dict(json.loads(out.read_text()))


def fat(*containers: list[tuple[int, int, int, int]]) -> bytes:
    """A section by NVIDIA's layout: containers of (kind, architecture, flags, payload bytes), with gaps between."""
    found = b""
    for entries in containers:
        body = b""
        for kind, number, flags, size in entries:
            head = struct.pack(
                "<HHIQIIHHIIIQQQ", kind, 0x101, 64, size, size, 0, 8, 1, number, 0, 0, flags, 0, 0
            )
            body += head + b"\x50\xed\x55\xba" * (size // 4)
        found += struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body + bytes(24)
    return found


def test_the_loaders_cache_reads_as_ldconfig_prints_it() -> None:
    ldconfig = shutil.which("ldconfig", path="/sbin:/usr/sbin:/bin:/usr/bin")
    if not ldconfig or not Path("/etc/ld.so.cache").exists():
        pytest.skip("no ldconfig")
    printed = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=True).stdout
    lines = [line.strip().split(" => ") for line in printed.splitlines() if " => " in line]
    found = loader.cache(Path("/etc/ld.so.cache").read_bytes())
    assert found == [(name.partition(" ")[0], path) for name, path in lines]
    assert found
    assert loader.cache(b"ld.so-1.7.0" + bytes(21) + Path("/etc/ld.so.cache").read_bytes()) == found
    assert loader.cache(b"") == []
    with pytest.raises(ValueError, match="too early"):
        loader.cache(Path("/etc/ld.so.cache").read_bytes()[:100])


def test_what_is_installed_and_whose_a_library_is(root: Path) -> None:
    status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n\n"
    gone = "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    (root / "var/lib/dpkg/status").write_text(status + gone)
    (root / "var/lib/dpkg/info/libc6:amd64.list").write_text("/lib64/libgomp.so.1\n")
    compiled(root / "usr/lib64/libgomp.so.1.0.0", soname="libgomp.so.1")
    (root / "usr/lib64/libgomp.so.1").symlink_to("libgomp.so.1.0.0")
    compiled(root / "usr/lib64/libcublas.so.13.1.0", soname="libcublas.so.13")
    facts = look(root)
    assert facts["system"] == {"id": "debian", "version": "12", "name": "Debian GNU/Linux 12"}
    assert facts["debian"] == [{"name": "libc6", "version": "2.36-9", "architecture": "amd64"}]
    assert [(one["name"], one["version"]) for one in facts["distributions"]] == [
        ("nvidia-cuda-runtime", "13.0.96"),
        ("nvidia-cudnn-cu13", "9.20.0.48"),
        ("torch", "2.13.0"),
    ]
    found = {one["path"]: one for one in facts["libraries"]}
    gomp = found["/usr/lib64/libgomp.so.1.0.0"]
    assert (gomp["owner"], gomp["version"], gomp["links"]) == ("libc6", "2.36-9", ["/usr/lib64/libgomp.so.1"])
    assert found[f"/{CUDNN}/libcudnn_ops.so.9"]["version"] == "9.20.0.48"
    blas = found["/usr/lib64/libcublas.so.13.1.0"]
    assert (blas["owner"], blas["version"], blas["family"]) == (None, "13.1.0", "cublas")
    assert not facts["rpm"]


def test_a_python_tells_its_version_without_being_run(tmp_path: Path) -> None:
    base = Path(sys.base_prefix)
    programs = [
        path
        for path in (*base.glob("bin/python3.*"), *base.glob("lib/libpython3.*.so.1.0"))
        if "-" not in path.name
    ]
    for path in programs:
        target = tmp_path / path.relative_to(base)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    found = packages.read(Tree(tmp_path)).python
    assert {one["version"] for one in found} == {"{}.{}.{}".format(*sys.version_info)}


def test_families_are_told_apart() -> None:
    names = [
        "libcublasLt.so.13",
        "libcublas.so.13",
        "libcudnn_engines_precompiled.so.9",
        "libcusolverMg.so.12",
    ]
    names += [
        "libnvrtc-builtins.so.13.0",
        "libcuda.so.1",
        "libtorch_cuda.so",
        "libstdc++.so.6",
        "libggml-cuda.so",
    ]
    found = [match and match[1] for match in map(libraries.FAMILY.match, names)]
    assert found == ["cublasLt", "cublas", "cudnn", "cusolver", "nvrtc", "cuda", "torch", "stdc++", "ggml"]
    assert not any(
        map(
            libraries.FAMILY.match, ["libcudadebugger.so.1", "libtorchvision.so", "libcurl.so.4", "libm.so.6"]
        )
    )


def test_the_same_name_twice_is_told_with_what_differs(root: Path) -> None:
    shim = root / CUDNN / "libcudnn.so.9"
    (root / "opt/other").mkdir()
    shutil.copy(shim, root / "opt/other/libcudnn.so.9")
    compiled(root / "opt/other/libcudart.so.13", "RUNTIME=12000", "PART=1", soname="libcudart.so.13")
    os.link(root / CUDNN / "libcudnn_ops.so.9", root / "opt/other/libcudnn_ops.so.9")  # one file, two names
    (root / "opt/other/stubs").mkdir()
    shutil.copy(root / CUDNN / "libcudnn_graph.so.9", root / "opt/other/stubs")
    same, differ = {one["soname"]: one for one in look(root)["twice"]}.values()
    assert (differ["soname"], differ["identical"]) == ("libcudnn.so.9", True)
    assert (same["soname"], same["identical"]) == ("libcudart.so.13", False)
    assert {file["path"] for file in differ["files"]} == {
        "/opt/other/libcudnn.so.9",
        f"/{CUDNN}/libcudnn.so.9",
    }
    assert len({file["sha256"] for file in differ["files"]}) == 1


def test_the_loader_reaches_files_in_its_order(root: Path) -> None:
    for folder in ("opt/first", "usr/lib64"):
        (root / folder).mkdir(exist_ok=True)
        shutil.copy(root / CUDNN / "libcudnn.so.9", root / folder)
        shutil.copy(root / CUDNN / "libcudnn_ops.so.9", root / folder)
    (root / "etc/ld.so.conf.d").mkdir()
    (root / "etc/ld.so.conf").write_text("# here\ninclude ld.so.conf.d/*.conf\n/usr/local/lib\n")
    (root / "etc/ld.so.conf.d/cuda.conf").write_text("/usr/local/cuda/lib64\n")
    facts = look(root, "--library-path", "/opt/first::/nowhere")["loader"]
    assert facts["configured"] == ["/usr/local/cuda/lib64", "/usr/local/lib"]
    assert facts["reach"]["libcudnn.so.9"] == [
        {"path": f"/{CUDNN}/libcudnn.so.9", "by": f"RPATH of /{SITE}/torch/lib/libtorch_cuda.so"},
        {"path": "/opt/first/libcudnn.so.9", "by": "LD_LIBRARY_PATH"},
        {"path": "/usr/lib64/libcudnn.so.9", "by": "default folders"},
    ]
    ops = facts["reach"]["libcudnn_ops.so.9"]
    assert [one["by"].split()[0] for one in ops] == ["LD_LIBRARY_PATH", "RUNPATH", "default"]
    assert len(facts["reach"]["libcudart.so.13"]) == 1


@pytest.mark.skipif(os.getuid() != 0, reason="ldconfig changes its root")
def test_the_loader_reaches_what_a_real_cache_names(root: Path) -> None:
    (root / "opt/cudnn").mkdir()
    shutil.copy(root / CUDNN / "libcudnn.so.9", root / "opt/cudnn/libcudnn.so.9.8.0")
    (root / "etc/ld.so.conf").write_text("/opt/cudnn\n")
    subprocess.run(["/sbin/ldconfig", "-r", str(root)], check=True, capture_output=True)
    second = look(root)["loader"]["reach"]["libcudnn.so.9"][1]
    assert second == {"path": "/opt/cudnn/libcudnn.so.9.8.0", "by": "ld.so.cache"}


def test_who_may_write_and_what_gives_rights(root: Path) -> None:
    for name, mode in {"su": 0o4755, "wall": 0o2755, "open": 0o666, "ours": 0o664, "fine": 0o644}.items():
        (root / "usr" / name).write_text("x")
        (root / "usr" / name).chmod(mode)
    (root / "opt/shared").mkdir(mode=0o755)
    (root / "opt/shared").chmod(0o777)
    (root / "opt/shared/below").write_text("x")
    (root / "opt/shared/below").chmod(0o666)
    gid = os.getgid()
    (root / "etc/passwd").write_text("app:x:54321:54321::/:/bin/sh\n")
    (root / "etc/group").write_text(f"them:x:{gid}:nobody,app\n")
    found = look(root, "--uid", "54321")["files"]
    assert found["setuid"] == ["/usr/su", "/usr/wall"]
    assert found["world_writable"] == ["/opt/shared", "/opt/shared/below", "/usr/open"]
    assert found["writable"] == ["/opt/shared", "/tmp", "/usr/open", "/usr/ours"]
    assert look(root)["files"]["writable"] == []
    assert files.groups_of(Tree(root), 7) == {7}


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives capabilities")
def test_a_program_with_capabilities_is_told(root: Path) -> None:
    (root / "usr/ping").write_text("x")
    (root / "usr/ping").chmod(0o755)
    try:  # VFS_CAP_REVISION_2 with the effective bit, CAP_NET_RAW permitted
        os.setxattr(root / "usr/ping", files.CAPABILITY, struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
    except OSError:
        pytest.skip("no such attributes here")
    assert look(root)["files"]["capabilities"] == ["/usr/ping"]


def test_bytes_are_counted_once_and_by_places_that_people_know(root: Path, tmp_path: Path) -> None:
    before = look(root)["sizes"]
    parent = tmp_path / "parent.json"
    parent.write_text(json.dumps(look(root)))
    (root / SITE / "transformers/models").mkdir(parents=True)
    (root / SITE / "transformers/models/big.py").write_bytes(bytes(5000))
    (root / "opt/app").mkdir()
    (root / "opt/app/one").write_bytes(bytes(7000))
    os.link(root / "opt/app/one", root / "opt/app/two")
    os.truncate(root / CUDA / "libcudart.so.13", files.LARGE)
    after = look(root, "--baseline", str(parent))["sizes"]
    grown = files.LARGE - (made() / CUDA / "libcudart.so.13").stat().st_size
    assert after["bytes"] - before["bytes"] == 12000 + grown
    assert after["files"] - before["files"] == 2
    assert after["largest"] == [
        {"path": f"/{CUDA}/libcudart.so.13", "bytes": files.LARGE},
        {"path": "/opt/app", "bytes": 7000},
        {"path": f"/{SITE}/transformers", "bytes": 5000},
    ]
    assert after["new_bytes"] == files.LARGE + 12000
    assert f"/{SITE}/nvidia/cudnn" in after["places"]
    assert sum(after["places"].values()) == after["bytes"]


def test_links_lead_where_the_image_says_not_where_this_machine_says(root: Path) -> None:
    (root / "opt/up").symlink_to("../../../usr/lib64")
    (root / "opt/round").symlink_to("round")
    tree = Tree(root)
    assert tree.real("/etc/os-release") == "/usr/lib/os-release"
    assert tree.real("/opt/up/../lib/./x") == "/usr/lib/x"
    assert tree.real("/lib64/x") == "/usr/lib64/x"
    assert tree.file("/opt/round") is None
    assert tree.text("/etc/shadow") == ""


def test_folders_that_are_shut_are_told(root: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("nothing is shut to root")
    (root / "root").mkdir(mode=0)
    assert look(root)["files"]["unreadable"] == ["/root"]


def test_mounts_and_what_is_to_be_skipped_are_no_part_of_the_image(root: Path) -> None:
    (root / "opt/skipped").write_text("x")
    assert "/opt/skipped" not in Tree(root, [root / "opt/skipped"]).nodes
    tree = Tree(
        Path("/"), [path for path in Path("/").iterdir() if path.name not in ("proc", "sys", "dev", "etc")]
    )
    assert "/etc" in tree.nodes
    assert not {"/proc", "/sys", "/dev"} & tree.nodes.keys()


@pytest.mark.parametrize("words", [["-I", str(PROGRAM)], ["-m", "proof"]], ids=["folder", "module"])
def test_it_stands_alone(root: Path, words: list[str]) -> None:
    call = [sys.executable, *words, "look", "--root", str(root)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=PROGRAM.parent, check=True)
    assert json.loads(done.stdout) == look(root)
    assert done.stderr == ""
