"""`deployer pull` beside Hugging Face's own client and the disk: `make bench-pull`.

Both fetch the same files from the same server (benchmarks/hub.py), in turn, in one run; theirs without the Xet client,
which speaks to another kind of server. Ours hashes every byte and brings all to the disk before it ends; theirs does
neither. Besides: memory, what a kill costs, `models verify` beside `sha256sum`, and `fit` of a model that is there.

    python benchmarks/pull.py --size 4 --files 8 --rounds 5 --save
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from run import ROOT, Ratio, environment, host, save, wall

HUB = "huggingface_hub==2.4.0"
NAME = "acme/large"
OURS = [sys.executable, "-m", "deployer"]
MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=4.0, help="GB in all; twice as much must be free on the disk")
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to fetch to; the disk that is measured")
    parser.add_argument("--save", action="store_true", help="keep the results in benchmarks/data/pull.json")
    options = parser.parse_args()
    client = huggingface()
    work = Path(tempfile.mkdtemp(prefix="deployer-bench-", dir=options.folder))
    before = os.getloadavg()
    results = []
    try:
        with served(options.size, options.files) as url:
            bench = Bench(work, url, int(options.size * 1e9), client, options.rounds)
            for part in (bench.rates, bench.kills, bench.verify, bench.fit):
                for ratio in part():
                    print(ratio, flush=True)
                    results.append(ratio)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.save:
        facts = {"rates": bench.rounds, "client": HUB, "gigabytes": options.size, "files": options.files,
                 "load": {"before": before, "after": os.getloadavg()}, **host()}  # fmt: skip
        save(results, "pull.json", **facts)
    return 0 if all(ratio.met for ratio in results) else 1


class Bench:
    """One server, one folder, and what is measured there."""

    def __init__(self, work: Path, url: str, size: int, client: Path, rounds: int) -> None:
        self._work, self._url, self._size, self._client, self._rounds = work, url, size, client, rounds
        self.rounds: dict[str, list[float]] = {}  # bytes per second
        self._home = work / "ours"
        self._env = {**environment(self._home), "HF_ENDPOINT": url, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT),
                     "HF_HUB_CACHE": str(work / "nobody"), "HF_TOKEN": ""}  # fmt: skip

    def rates(self) -> Iterator[Ratio]:
        """Bytes per second, each round: the disk, theirs, ours; theirs with and without their way to the disk."""
        self._timed(self._ours, self._home)  # not counted: imports, caches of the system
        disk, theirs, synced, ours, memory = [], [], [], [], [0.0, 0.0]
        for number in range(self._rounds):
            disk.append(self._size / self._written())
            for one in (self._theirs, self._ours)[:: 1 if number % 2 else -1]:
                took, peak, flush = self._timed(one, self._work / "theirs" if one == self._theirs else self._home)
                if one == self._ours:
                    ours.append(self._size / took)
                    memory[0] = max(memory[0], peak)
                else:
                    theirs.append(self._size / took)
                    synced.append(self._size / (took + flush))
                    memory[1] = max(memory[1], peak)
            print(f"      round {number + 1}: " + ", ".join(
                f"{name} {values[-1] / 1e6:.0f}" for name, values in
                (("disk", disk), ("hf download", theirs), ("with sync", synced), ("pull", ours))) + " MB/s",
                flush=True)  # fmt: skip
        self.rounds = {"disk": disk, "theirs": theirs, "synced": synced, "ours": ours}
        middle = {name: statistics.median(values) / 1e6 for name, values in self.rounds.items()}
        yield Ratio("rate of pull, hashed and on the disk, against hf download", middle["ours"], middle["theirs"],
                    "MB/s", 1.0, at_most=False)  # fmt: skip
        yield Ratio("the same against hf download and sync", middle["ours"], middle["synced"], "MB/s", 1.0,
                    at_most=False)  # fmt: skip
        yield Ratio("the same against this disk, written and synced", middle["ours"], middle["disk"], "MB/s", 0.9,
                    at_most=False)  # fmt: skip
        yield Ratio("peak memory of pull", memory[0] / 1e6, 1, "MB", 300)
        yield Ratio("peak memory of pull against hf download", memory[0] / 1e6, memory[1] / 1e6, "MB", 1.0)

    def kills(self) -> Iterator[Ratio]:
        """What one kill -9 costs, the most of three at random moments.

        Lost is what was written and is asked for again: a stopped program tells how much it wrote, and the next one
        asks for what lacks. The server also sent what sockets held; that depends on their size and on the line.
        """
        dice, lost, sent = random.Random(5), 0, 0
        for _ in range(3):
            shutil.rmtree(self._home, ignore_errors=True)
            (begin, _), goal = self._sent(), dice.uniform(0.1, 0.9) * self._size
            child = self._ours()
            while self._sent()[0] - begin < goal and child.poll() is None:
                time.sleep(0.005)
            child.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
            told = Path(f"/proc/{child.pid}/io").read_text()
            written = int(next(line.split()[1] for line in told.splitlines() if line.startswith("wchar")))
            child.send_signal(signal.SIGKILL)
            if child.wait() != -signal.SIGKILL:
                raise SystemExit("it ended before it was killed")
            time.sleep(0.2)  # for the server to notice
            _, before = self._sent()
            if self._ours().wait():
                raise SystemExit("it did not go on after a kill")
            after, asked = self._sent()
            lost = max(lost, written - (self._size - (asked - before)))
            sent = max(sent, after - begin - self._size)
        yield Ratio("written and lost in a kill -9, the most of three", lost / MIB, 1, "MiB", 64)
        yield Ratio("sent twice for a kill -9, with what sockets held", sent / MIB, 1, "MiB", 128)

    def verify(self) -> Iterator[Ratio]:
        """`models verify` beside sha256sum of the same files, which are not in the page cache."""
        files = sorted(next((self._home / "models").glob("large-*/")).glob("*.safetensors"))

        def timed(command: Sequence[str]) -> Callable[[], float]:
            def run() -> float:
                forget(files)
                return wall(command, self._env)

            return run

        names = [str(path) for path in files]
        many = ["xargs", "-a", str(self._work / "names"), "-n", "1", "-P", str(os.cpu_count()), "sha256sum"]
        (self._work / "names").write_text("\n".join(names))
        fast = ["openssl", "dgst", "-sha256"]
        commands = {
            "ours": [*OURS, "models", "verify"], "sha256sum": ["sha256sum", *names],
            "one sha256sum for each core": many, "openssl dgst": [*fast, *names],
            "one openssl dgst for each core": [*many[:-1], *fast],
        }  # fmt: skip
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(max(2, self._rounds // 2)):
            for name, command in commands.items():
                taken[name].append(timed(command)())
        middle = {name: statistics.median(values) for name, values in taken.items()}
        for name in list(commands)[1:]:
            yield Ratio(f"models verify against {name}", middle["ours"], middle[name], "s", 1.0)

    def fit(self) -> Iterator[Ratio]:
        """`fit` of the model that is there now: its metadata are in its folder."""
        id_ = next((self._home / "models").glob("large-*/")).name
        bare = [sys.executable, "-c", "import click, httpx, yaml"]
        pairs = [(wall([*OURS, "fit", id_], self._env, (0, 1)), wall(bare)) for _ in range(3 * self._rounds)]
        yield Ratio("fit of one model with warm metadata", statistics.median(a for a, _ in pairs), 1, "s", 0.3)
        yield Ratio("the best of these", min(a for a, _ in pairs), 1, "s", 0.3)
        yield Ratio("the same against python -c 'import click, httpx, yaml'", statistics.median(a for a, _ in pairs),
                    statistics.median(b for _, b in pairs), "s", 3.0)  # fmt: skip

    def _timed(self, start: Callable[[], subprocess.Popen[bytes]], folder: Path) -> tuple[float, float, float]:
        """Seconds, the most bytes resident, and seconds that a sync after it takes. Begins with an empty folder."""
        shutil.rmtree(folder, ignore_errors=True)
        os.sync()
        begin = time.perf_counter()
        child = start()
        with Memory(child.pid) as memory:
            code = child.wait()
        took = time.perf_counter() - begin
        if code:
            raise SystemExit(f"{child.args!r} failed: {(self._work / 'said').read_text()}")
        begin = time.perf_counter()
        os.sync()
        flush = time.perf_counter() - begin
        found = sum(p.stat().st_size for p in folder.rglob("*.safetensors") if p.is_file())
        if found < self._size * 0.99:
            raise SystemExit(f"{child.args!r} brought {found} bytes")
        if start == self._theirs:
            shutil.rmtree(folder)
        return took, memory.peak, flush

    def _ours(self) -> subprocess.Popen[bytes]:
        with (self._work / "said").open("w") as said:
            return subprocess.Popen([*OURS, "pull", f"hf://{NAME}"], env=self._env, stdout=said, stderr=said)

    def _theirs(self) -> subprocess.Popen[bytes]:
        env = {**self._env, "HF_HOME": str(self._work / "theirs"), "HF_HUB_DISABLE_XET": "1",
               "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
        env.pop("HF_HUB_CACHE")
        env.pop("PYTHONPATH")
        with (self._work / "said").open("w") as said:
            return subprocess.Popen([str(self._client), "download", NAME], env=env, stdout=said, stderr=said)

    def _written(self) -> float:
        """Seconds to write as many bytes and bring them to the disk, as `dd conv=fdatasync` does."""
        block, path = random.Random(1).randbytes(8 * MIB), self._work / "disk"
        os.sync()
        begin = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for _ in range(self._size // len(block)):
                file.write(block)
            os.fdatasync(file.fileno())
        took = time.perf_counter() - begin
        path.unlink()
        return took * self._size / (self._size // len(block) * len(block))

    def _sent(self) -> tuple[int, int]:
        """Bytes of files that the server gave to the system so far, and that it was asked for."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self._url}/sent") as answer:
            sent, asked = map(int, answer.read().split())
        return sent, asked


class Memory:
    """The most that a process and its children had resident at a time, in bytes; asked fifty times a second."""

    def __init__(self, pid: int) -> None:
        self._pid, self._over, self.peak = pid, threading.Event(), 0.0
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, float(self._resident(self._pid)))

    def _resident(self, pid: int) -> int:
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            children = [c for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE") + sum(self._resident(int(child)) for child in children)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@contextmanager
def served(size: float, files: int) -> Iterator[str]:
    """The address of a hub with one model, in a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks/hub.py"), str(size), str(files)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hub:
        try:
            assert hub.stdout
            yield hub.stdout.readline().strip()
        finally:
            hub.kill()


def huggingface() -> Path:
    """Their client, in an environment of its own, without Xet."""
    tool = ROOT / ".cache/huggingface"
    if not (tool / "bin/hf").exists():
        subprocess.run([sys.executable, "-m", "venv", str(tool)], check=True)
        subprocess.run([str(tool / "bin/pip"), "install", "-q", HUB], check=True)
        subprocess.run([str(tool / "bin/pip"), "uninstall", "-q", "-y", "hf-xet"], check=True)
    return tool / "bin/hf"


def forget(files: Sequence[Path]) -> None:
    """Drops the files from the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main())
