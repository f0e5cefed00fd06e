"""Engines for the embedded runtime: made once from pinned sources, kept under the home.

llama.cpp is compiled for the CPU at hand from the very source that the image uses. transformers gets a
virtual environment with the versions that the image has locked.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections import deque
from pathlib import Path

from deployer import images
from deployer.errors import BuildError, NoSpace, QuestionError
from deployer.fetch import Web, free_bytes
from deployer.home import Home, write_whole
from deployer.images.context import fetch_sources
from deployer.progress import Progress
from deployer.quantity import format_size
from deployer.runtimes.supervisor import end_with_parent

# Build tools that come from the package index where the host has none. ziglang is a C++ compiler in a wheel.
_CMAKE, _NINJA, _ZIG = "cmake==4.4.4", "ninja==1.13.2", "ziglang==0.17.1"
_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_ALL_WARNINGS=OFF",
)
_PROGRAMS = ("llama-server", "llama-quantize", "llama-perplexity")
# This version's AMX code crashes on real AMX machines or gives wrong answers: the compiler drops the tile
# configuration (ggml-org/llama.cpp#26954, #20824).
_NO_AMX = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")
_NINJA_LINE = re.compile(r"\[(\d+)/(\d+)\] ")


def program(engine: str, variant: str, home: Home) -> Path:
    """Where the engine's program is or will be; the name changes with its pins and this CPU."""
    recipe = images.load(engine)
    if engine == "llamacpp":
        key = "".join((*(s.sha256 for s in recipe.sources), *_FLAGS, *_PROGRAMS, *_NO_AMX, _cpu()))
        return home.engines / f"llamacpp-{recipe.version}-{_short(key)}" / "llama-server"
    if variant != "cpu":
        raise QuestionError(
            f"the embedded runtime has no {engine}:{variant}",
            hint="GPU variants need containers: --runtime docker",
        )
    key = _locked(engine, variant) + sys.version.split()[0]
    return home.engines / f"{engine}-{recipe.version}-{_short(key)}" / "bin" / engine


def provision(engine: str, variant: str, *, home: Home, web: Web, progress: Progress) -> Path:
    """Makes the engine if it is not there. Raises BuildError with the tool's last lines."""
    target = program(engine, variant, home)
    if ready(target):
        return target
    make = _llamacpp if engine == "llamacpp" else _environment
    with home.lock(f"engine-{engine}", waiting=lambda who: progress.say(f"engine: waiting for {who}")):
        if not ready(target):
            make(engine, variant, target, home, web, progress)
    return target


def ready(program: Path) -> bool:
    """Whether the engine is there, whole: a kill during its installation leaves no mark."""
    return program.exists() and (program.name == "llama-server" or _done(program).exists())


def _done(program: Path) -> Path:
    return program.parent.parent / ".complete"


def _llamacpp(engine: str, variant: str, target: Path, home: Home, web: Web, progress: Progress) -> None:
    _room(home, 1_500_000_000)
    recipe = images.load("llamacpp")
    fetch_sources(recipe.sources, home=home, web=web, progress=progress)
    with home.scratch("llamacpp") as scratch:
        source = scratch / "source"
        with tarfile.open(home.sources / recipe.sources[0].file) as archive:
            prefix = archive.getmembers()[0].name.split("/")[0]
            archive.extractall(scratch, filter="data")
            (scratch / prefix).rename(source)
        tools, flags = _tools(scratch, web, progress)
        options = " ".join(["-w", *_compiler_knows(_NO_AMX)])
        flags += [f"-DCMAKE_C_FLAGS={options}", f"-DCMAKE_CXX_FLAGS={options}"]
        build = scratch / "build"
        progress.say("engine: compiling llama-server for this CPU (once; several minutes)")
        generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools['ninja']}"]
        where = ["-S", str(source / "vendor/llama.cpp"), "-B", str(build)]
        _run([tools["cmake"], *where, *generator, *_FLAGS, *flags], progress)
        _run([tools["cmake"], "--build", str(build), "--target", *_PROGRAMS], progress)
        ready = scratch / "ready"
        ready.mkdir()
        for name in _PROGRAMS:
            shutil.copy2(build / "bin" / name, ready / name)
        vendor = source / "vendor/llama.cpp"
        shutil.copy2(vendor / "LICENSE", ready / "LICENSE")
        # as in the image: the converter from safetensors, for the Python of another engine
        for name in ("convert_hf_to_gguf.py", "conversion", "gguf-py/gguf", "gguf-py/LICENSE"):
            dest = ready / "convert" / name
            dest.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (vendor / name).is_dir() else shutil.copy2)(vendor / name, dest)
        _run([str(ready / "llama-server"), "--version"], progress)
        target.parent.parent.mkdir(parents=True, exist_ok=True)
        ready.rename(target.parent)


def _tools(scratch: Path, web: Web, progress: Progress) -> tuple[dict[str, str], list[str]]:
    """Paths of cmake and ninja, and the flags that name the compiler if it is ours."""
    compiler = _compiler()
    found = {name: shutil.which(name) for name in ("cmake", "ninja")}
    missing = [pin for name, pin in (("cmake", _CMAKE), ("ninja", _NINJA)) if not found[name]]
    missing += [] if compiler else [_ZIG]
    folder = scratch / "tools"
    if missing:
        progress.say(f"engine: getting build tools: {', '.join(missing)}")
        _pip(folder, missing, web, progress)
    paths = {name: path or str(folder / "bin" / name) for name, path in found.items()}
    if compiler:
        return paths, []
    names = {"C_COMPILER": "cc", "CXX_COMPILER": "c++", "AR": "ar", "RANLIB": "ranlib"}
    flags = ["-DGGML_OPENMP=OFF"]
    for key, name in names.items():
        wrapper = folder / "bin" / f"zig-{name}"
        wrapper.write_text(f'#!/bin/sh\nexec {folder}/bin/python -m ziglang {name} "$@"\n')
        wrapper.chmod(0o755)
        flags.append(f"-DCMAKE_{key}={wrapper}")
    return paths, flags


def _compiler() -> str | None:
    return next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)


def _compiler_knows(options: tuple[str, ...]) -> tuple[str, ...]:
    """`options` on x86-64, unless the host's compiler is too old to know them (and what they turn off)."""
    if platform.machine() != "x86_64":
        return ()
    compiler = _compiler()
    if compiler is None:
        return options  # zig knows them
    tried = subprocess.run(
        [compiler, *options, "-x", "c++", "-E", "/dev/null"], capture_output=True, check=False
    )
    return options if tried.returncode == 0 else ()


def _environment(engine: str, variant: str, target: Path, home: Home, web: Web, progress: Progress) -> None:
    if sys.version_info < (3, 11):
        raise BuildError(
            f"transformers {images.load(engine).version} needs Python 3.11 or later, this is "
            f"{sys.version.split()[0]}",
            hint="use containers (--runtime docker) or make the environment with a newer Python",
        )
    _room(home, 4_000_000_000)
    recipe = images.load(engine)
    line = images.target(engine, variant).line
    # The lock's hashes are of wheels for the image's Python; here its versions hold, for any Python.
    versions = re.findall(r"^([\w.-]+)==([\w.]+)(?:\+\w+)? ", _locked(engine, variant), re.MULTILINE)
    progress.say(f"engine: installing {engine} {recipe.version} and torch (once; several hundred MB)")
    folder = target.parent.parent
    shutil.rmtree(folder, ignore_errors=True)  # made in place: a virtual environment cannot be moved
    with home.scratch("pip") as scratch:
        constraints = scratch / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in versions))
        asked = [word for target in line if target.lock for word in _words(target.asked.read_text())]
        local = web.wheelhouse and any(web.wheelhouse.glob("torch-*.whl"))
        indexes = [t.variant.extra_index for t in line if t.variant.extra_index and not local]
        extra = [word for index in indexes for word in ("--extra-index-url", index)]
        try:
            _pip(folder, [*asked, "-c", str(constraints), *extra], web, progress)
            write_whole(_done(target), b"")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _locked(engine: str, variant: str) -> str:
    """The text of every lock of wheels that the engine's image stands on."""
    return "".join(t.lock.read_text() for t in images.target(engine, variant).line if t.lock)


def _words(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _pip(folder: Path, packages: list[str], web: Web, progress: Progress) -> None:
    """A virtual environment in `folder` with `packages`."""
    _run([sys.executable, "-m", "venv", str(folder)], progress)
    command = [str(folder / "bin/python"), "-m", "pip", "install", "--no-input", *packages]
    if web.index:
        command += ["--index-url", web.index]
    if web.ca:
        command += ["--cert", str(web.ca)]
    if web.wheelhouse:
        command += ["--find-links", str(web.wheelhouse)]
    _run(command, progress)


def _run(command: list[str], progress: Progress) -> None:
    last: deque[str] = deque(maxlen=30)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=end_with_parent,  # a killed `up` leaves nobody behind who writes where the next one does
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                last.append(line.rstrip())
                if match := _NINJA_LINE.match(line):
                    progress.amount("llama-server", int(match[1]), int(match[2]), "files")
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        errors = [line for line in last if re.search(r"error|failed|No matching", line, re.IGNORECASE)]
        raise BuildError(
            f"`{Path(command[0]).name} {' '.join(command[1:4])} …` failed",
            hint="with Docker Engine installed, images are used instead and nothing is compiled on the host",
            evidence=(errors or list(last))[-5:],
        )


def _room(home: Home, need: int) -> None:
    free = free_bytes(home.engines)
    if free < need:
        raise NoSpace(
            f"the engine needs {format_size(need)} and {home.engines} has {format_size(free)} free",
            hint="make room there, or use another place with --home DIR",
        )


def _cpu() -> str:
    """The CPU's features: code compiled for one CPU is not run on another."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return line
    return ""


def _short(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:12]
