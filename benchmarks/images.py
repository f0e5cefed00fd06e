"""Sizes and build times of the images, each beside a naive build of the same content: `make bench-images`.

    python benchmarks/images.py size transformers:cu130 …   # bytes on disk and zstd-compressed, aims of the project
    python benchmarks/images.py naive transformers:cpu      # against a Dockerfile that only says pip install
    python benchmarks/images.py again                       # a changed line, and an unchanged image

Compressed is what a registry keeps: each layer by itself with zstd at its default level, 3, the sum. Times are of one
machine and mean something only as ratios within a run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from run import DEPLOYER, ROOT, Ratio, environment, save

# image: bytes on disk and compressed, at most
AIMS = {
    "transformers:cu130": (4.9e9, 2.5e9),
    "vllm:cu130": (9e9, 5e9),
    "llamacpp:cpu": (None, 120e6),
    "llamacpp:cuda": (None, 700e6),
}
BESIDE = ("vllm:cu130", "transformers:cu130", 4.2e9)
THEIRS = "deployer-bench/naive"
NAIVE = """\
FROM {base}
RUN apt-get update && apt-get install -y python3 python3-pip
COPY requirements.txt .
RUN --mount=type=secret,id=ca SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca \\
    pip install --break-system-packages {find} -r requirements.txt
"""


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()


def disk(reference: str) -> float:
    """Bytes of the image, unpacked."""
    return float(docker("image", "inspect", "--format", "{{.Size}}", reference))


def built(name: str, work: Path, *words: str) -> str:
    """The reference of the image, built if it is not here."""
    command = [DEPLOYER, "build", name, "--json", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment(work))
    return str(json.loads(done.stdout)["images"][0]["reference"])


def layers(reference: str) -> dict[str, int]:
    """Bytes of each layer by digest, compressed by itself; done once for each layer."""
    digests = json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", reference))
    found: dict[str, int] = {}
    with subprocess.Popen(["docker", "save", reference], stdout=subprocess.PIPE) as saved:
        assert saved.stdout is not None
        by_path: dict[str, int] = {}
        order: list[str] = []
        with tarfile.open(fileobj=saved.stdout, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member)
                if member.name == "manifest.json" and content:
                    order = json.load(content)[0]["Layers"]
                elif content and member.size > 1024 and not member.name.endswith(".json"):
                    by_path[member.name] = compressed(content)
    for digest, path in zip(digests, order, strict=True):
        found[digest] = by_path.get(path, 0)
    return found


def compressed(content: object) -> int:
    """Bytes after zstd -3."""
    total = 0
    with subprocess.Popen(["zstd", "-3", "-T0", "-q", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as zstd:
        assert zstd.stdin and zstd.stdout
        import threading

        feeding = threading.Thread(target=_feed, args=(content, zstd.stdin))
        feeding.start()
        while chunk := zstd.stdout.read(1 << 20):
            total += len(chunk)
        feeding.join()
    return total


def _feed(source: object, sink: object) -> None:
    shutil.copyfileobj(source, sink, 1 << 20)  # type: ignore[misc, call-overload]
    sink.close()  # type: ignore[attr-defined]


def size(names: list[str], work: Path) -> Iterator[Ratio]:
    """Bytes of the images; what one costs beside another is the layers that the other has not."""
    known: dict[str, dict[str, int]] = {}
    for name in names:
        reference = built(name, work)
        unpacked, aims = disk(reference), AIMS.get(name, (None, None))
        known[name] = layers(reference)
        yield Ratio(f"{name} on disk", unpacked, 1, "B", aims[0] or unpacked)
        total = float(sum(known[name].values()))
        yield Ratio(f"{name} compressed", total, 1, "B", aims[1] or total)
    one, other, aim = BESIDE
    if one in names and other in names:
        alone = disk(built(one, work)) - disk(built("torch:cu130", work))
        yield Ratio(f"{one} beside {other}", alone, 1, "B", aim)


def naive(names: list[str], work: Path) -> Iterator[Ratio]:
    """Cold builds and sizes against a Dockerfile with pip, no lock, no cache mount."""
    base = built("debian:12", work)
    for name in names:
        began = time.monotonic()
        reference = built(name, work, "--no-cache")
        ours = time.monotonic() - began
        folder = work / "naive"
        folder.mkdir(exist_ok=True)
        image, variant = name.split(":")
        wanted = [*(ROOT / "images/torch").glob(f"requirements-{variant}.in"), ROOT / "images/torch/requirements.in"]
        asked = wanted[0].read_text() + (ROOT / f"images/{image}/requirements.in").read_text()
        (folder / "requirements.txt").write_text(asked)
        wheels = {"cpu": ["--build-context", "wheels=" + environment(work).get("PIP_FIND_LINKS", "/nowhere")]}
        found, text = "", NAIVE
        if variant == "cpu":
            found, mount = "--find-links /wheels", "--mount=type=bind,from=wheels,target=/wheels"
            text = text.replace("RUN --mount", f"RUN {mount} --mount")
        (folder / "Dockerfile").write_text(text.format(base=base, find=found))
        command = ["docker", "buildx", "build", "--no-cache", "-q", "-t", THEIRS, *wheels.get(variant, [])]
        certificates = environment(work).get("SSL_CERT_FILE")
        command += ["--secret", f"id=ca,src={certificates}"] if certificates else []
        began = time.monotonic()
        subprocess.run([*command, str(folder)], check=True, capture_output=True)
        theirs = time.monotonic() - began
        yield Ratio(f"cold build of {name} against a naive one, proof included", ours, theirs, "s", 1.0)
        yield Ratio(f"{name} on disk against a naive build", disk(reference) / 1e9, disk(THEIRS) / 1e9, "GB", 1.0)
        docker("rmi", "-f", THEIRS)


def again(_: list[str], work: Path) -> Iterator[Ratio]:
    """A build after a change of one line in a file that the image copies, and one of an unchanged image."""
    checkout = work / "checkout"
    ignore = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, checkout, ignore=ignore)
    env = {**environment(work), "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "deployer", "build", "gateway:cpu"]

    def timed() -> float:
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True, env=env, cwd=checkout)
        return time.monotonic() - began

    timed()
    changed, unchanged = [], []
    for number in range(7):
        with (checkout / "deployer/gateway/__init__.py").open("a") as file:
            file.write(f"# {number} {time.time_ns()}\n")  # an earlier run made its own
        changed.append(timed())
        unchanged.append(timed())
    yield Ratio("build after a change of one line that the image copies", statistics.median(changed), 1, "s", 2.0)
    yield Ratio("build of an unchanged image", statistics.median(unchanged), 1, "s", 0.4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["size", "naive", "again"])
    parser.add_argument("images", nargs="*")
    parser.add_argument("--save", action="store_true", help="keep the results in benchmarks/data/")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="deployer-bench-"))
    results = []
    try:
        for ratio in {"size": size, "naive": naive, "again": again}[options.what](options.images, work):
            print(ratio, flush=True)
            results.append(ratio)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.save:
        save(results)
    return 0 if all(ratio.met for ratio in results) else 1


if __name__ == "__main__":
    sys.exit(main())
