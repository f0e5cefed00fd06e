"""Ratios that this project holds itself to, each measured in one run on one machine: `make bench`.

Absolute times say more about the machine than about the code, so every figure stands beside its reference,
measured in turn with it. Results go to stdout and, with `--save`, to benchmarks/data/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
DEPLOYER = str(BIN / "deployer")
RAMALAMA = "ramalama==0.25.0"
HEAVY = ("torch", "transformers", "huggingface_hub", "docker", "pynvml", "httpx")


@dataclass(frozen=True)
class Ratio:
    """`value` is ours over the reference, both medians; `aim` is the bound, `at_most` its side."""

    what: str
    ours: float
    reference: float
    unit: str
    aim: float
    at_most: bool = True

    @property
    def value(self) -> float:
        """The ratio; of a bound that is no ratio, the reference is 1."""
        return self.ours / self.reference

    @property
    def met(self) -> bool:
        return self.value <= self.aim if self.at_most else self.value >= self.aim

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        return (
            f"{'met ' if self.met else 'MISS'}  {self.what}: {self.value:.2f} (aim {sign} {self.aim:g}); "
            f"{self.ours:.3f} against {self.reference:.3f} {self.unit}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--save", action="store_true", help="keep the results in benchmarks/data/")
    parser.add_argument("only", nargs="*", choices=[[], "help", "check", "audit", "up", "speed"], default=[])
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="deployer-bench-"))
    results = []
    try:
        for name, bench in BENCHES.items():
            if options.only and name not in options.only:
                continue
            for ratio in bench(work, options.rounds):
                print(ratio, flush=True)
                results.append(ratio)
    finally:
        subprocess.run([DEPLOYER, "down", "--all"], env=environment(work), capture_output=True)
        shutil.rmtree(work, ignore_errors=True)
    if options.save:
        save(results)
    return 0 if all(ratio.met for ratio in results) else 1


def help_(work: Path, rounds: int) -> list[Ratio]:
    ours, reference = in_turn(
        rounds, lambda: wall([DEPLOYER, "--help"]), lambda: wall([sys.executable, "-c", "import click"])
    )
    return [Ratio("deployer --help against python -c 'import click'", ours, reference, "s", 1.5)]


def check(work: Path, rounds: int) -> list[Ratio]:
    env = environment(work)
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", DEPLOYER, "check", "cpu-small"], env=env, capture_output=True, text=True
    ).stderr
    names = {line.rsplit("|", 1)[-1].strip() for line in loaded.splitlines() if line.startswith("import time:")}
    heavy = sorted(names & set(HEAVY))
    print(f"{'MISS' if heavy else 'met '}  deployer check imports none of {', '.join(HEAVY)}: {heavy or 'none'}")
    ours, reference = in_turn(
        rounds,
        lambda: wall([DEPLOYER, "check", "cpu-small"], env),
        lambda: wall([str(ramalama()), "info"], env),
    )
    return [Ratio("deployer check against ramalama info", ours, reference, "s", 0.6)]


def audit(work: Path, rounds: int) -> list[Ratio]:
    """`deployer check` on eight described H100 with the real engine, and where everything hangs."""
    sys.path.insert(0, str(ROOT))
    from tests.stage import stage as stages

    built = stages.build(work / "stage")
    env = environment(work)
    spies = work / "spies"
    spies.mkdir()
    (spies / "sitecustomize.py").write_text(SPY)
    found = []
    with stages.Stage("8x-h100", work / "eight", built) as stage:
        here = {**stages.environment(stage), "DOCKER_HOST": env.get("DOCKER_HOST", "unix:///var/run/docker.sock")}
        command = [DEPLOYER, "check", "h100-80gb"]
        started = work / "started"
        spied = subprocess.run(
            command,
            env={**here, "PYTHONPATH": str(spies), "SPY": str(started)},
            capture_output=True,
            text=True,
        )
        asked = [line for line in spied.stdout.splitlines() if " pass, " in line]
        began = started.read_text().split() if started.exists() else []
        print(f"{'MISS' if began else 'met '}  deployer check starts no program: {began or 'none'}; {asked}")
        ours, reference = in_turn(
            rounds,
            lambda: wall(command, here, codes=(0, 1)),
            lambda: wall([str(ramalama()), "info"], env),
        )
        found.append(Ratio("deployer check of 8 GPUs, all checks, against ramalama info", ours, reference, "s", 0.7))
        found.append(Ratio("memory of it", peak(command, here) / 1e6, 1, "MB", 60))
    with stages.Stage("all-hung", work / "hung", built) as stage:
        here = stages.environment(stage)
        took = statistics.median(wall([DEPLOYER, "check"], here, codes=(0, 1)) for _ in range(3))
        found.append(Ratio("deployer check with NVML, engine and disk hung", took, 1, "s", 5))
    found.append(Ratio("judging a saved host against all profiles", judging(built), 1, "ms", 50))
    return found


# Put before everything else by PYTHONPATH: notes every program that the interpreter starts.
SPY = """
import os, sys
def note(event, _words):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"):
        with open(os.environ["SPY"], "a") as file:
            file.write(event + "\\n")
sys.addaudithook(note)
"""


def judging(built: Path) -> float:
    """Milliseconds to judge one saved host against all shipped profiles, when everything is loaded."""
    from deployer import checks, profile
    from tests.stage.stage import described

    host = described("8x-h100", built)
    wanted = [profile.load(path) for path in profile.shipped()]
    times = []
    for _ in range(20):
        start = time.perf_counter()
        for one in wanted:
            checks.audit(host, one)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def peak(command: Sequence[str], env: dict[str, str]) -> float:
    """The most memory that the command had resident, in bytes."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return os.wait4(process.pid, 0)[2].ru_maxrss * 1024.0


def ramalama() -> Path:
    tool = ROOT / ".cache/ramalama"
    if not (tool / "bin/ramalama").exists():
        subprocess.run([sys.executable, "-m", "venv", str(tool)], check=True)
        subprocess.run([str(tool / "bin/pip"), "install", "-q", RAMALAMA], check=True)
    return tool / "bin/ramalama"


def up(work: Path, rounds: int) -> list[Ratio]:
    env = environment(work)
    port = free_port()
    words = ["up", "cpu-small", "--runtime", "docker", "--port", str(port), "--json"]
    deployer(words, env)
    about = json.loads(docker("inspect", engine(work)))[0]
    deployer(["down", "cpu-small"], env)
    bare_port = free_port()
    bare = bare_command(about, bare_port)

    def ours() -> float:
        took = wall([DEPLOYER, *words], env)
        deployer(["down", "cpu-small"], env)
        return took

    def reference() -> float:
        start = time.perf_counter()
        subprocess.run(bare, check=True, capture_output=True)
        wait_healthy(bare_port)
        took = time.perf_counter() - start
        docker("rm", "-f", "deployer-bench-bare")
        return took

    measured = in_turn(max(3, rounds // 3), ours, reference)
    return [Ratio("warm up of cpu-small on docker against docker run until healthy", *measured, "s", 1.5)]


def speed(work: Path, rounds: int) -> list[Ratio]:
    env = environment(work)
    port = free_port()
    result = json.loads(
        deployer(["up", "cpu-small", "--runtime", "docker", "--port", str(port), "--json"], env).stdout
    )
    about = json.loads(docker("inspect", engine(work)))[0]
    bare_port = free_port()
    subprocess.run(bare_command(about, bare_port), check=True, capture_output=True)
    wait_healthy(bare_port)
    key = Path(result["key_file"]).read_text().strip()
    try:
        ours, reference = in_turn(
            max(5, rounds // 2),
            lambda: tokens_per_second(port, result["model"], key),
            lambda: tokens_per_second(bare_port, result["model"], None),
        )
    finally:
        docker("rm", "-f", "deployer-bench-bare")
        deployer(["down", "cpu-small"], env)
    what = "tokens/s of the deployment against the bare engine"
    return [Ratio(what, ours, reference, "tokens/s", 0.97, at_most=False)]


BENCHES: dict[str, Callable[[Path, int], list[Ratio]]] = {
    "help": help_,
    "check": check,
    "audit": audit,
    "up": up,
    "speed": speed,
}


def in_turn(rounds: int, ours: Callable[[], float], reference: Callable[[], float]) -> tuple[float, float]:
    """Medians of both, measured alternately after one round that does not count."""
    ours(), reference()
    pairs = [(ours(), reference()) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def wall(command: Sequence[str], env: dict[str, str] | None = None, codes: tuple[int, ...] = (0,)) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    took = time.perf_counter() - start
    if done.returncode not in codes:
        raise SystemExit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return took


def tokens_per_second(port: int, model: str, key: str | None) -> float:
    """Decoded tokens of one answer per second between its first and its last piece, as a client sees it."""
    import httpx

    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Write a long story about a lighthouse."}],
        "max_tokens": 192,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    times, tokens = [], 0
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                tokens = (event.get("usage") or {}).get("completion_tokens") or tokens
                if any((c.get("delta") or {}).get("content") for c in event.get("choices") or ()):
                    times.append(time.perf_counter())
    return (tokens - 1) / (times[-1] - times[0])


def bare_command(about: dict[str, Any], port: int) -> list[str]:
    """`docker run` of the same image and model with the engine's own defaults, all cores, no key, no limits.

    llama-server's defaults are its best flags here: it takes one thread for each core and tunes the rest.
    """
    model = next(m for m in about["Mounts"] if m["Destination"].startswith("/models"))
    words = about["Config"]["Cmd"]
    path = words[words.index("--model") + 1]
    size = words[words.index("--ctx-size") + 1]
    return [
        *("docker", "run", "-d", "--name", "deployer-bench-bare", "-p", f"127.0.0.1:{port}:8080"),
        *("-v", f"{model['Source']}:{model['Destination']}:ro", about["Config"]["Image"]),
        *("--model", path, "--host", "0.0.0.0", "--port", "8080", "--ctx-size", size),
    ]


def wait_healthy(port: int) -> None:
    import http.client

    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.02)


def environment(work: Path) -> dict[str, str]:
    return {**os.environ, "DEPLOYER_HOME": str(work)}


def deployer(words: Sequence[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([DEPLOYER, *words], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"deployer {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout


def engine(work: Path) -> str:
    import hashlib

    tag = hashlib.sha256(str(work).encode()).hexdigest()[:6]
    names = docker("ps", "--format", "{{.Names}}").split()
    return next(name for name in names if name.endswith(tag))


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def host() -> dict[str, Any]:
    """What a result depends on besides the code."""
    cpu = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in cpu if "model name" in line), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": model, "cores": os.cpu_count(), "memory": memory, "kernel": platform.release(),
            "python": platform.python_version()}  # fmt: skip


def save(results: Sequence[Ratio], name: str = "ratios.json", **facts: Any) -> None:
    """Into benchmarks/data/; what was not measured now stays as it was."""
    folder = ROOT / "benchmarks/data"
    kept = folder / name
    new = {r.what for r in results}
    old = json.loads(kept.read_text())["results"] if kept.exists() else []  # of benches that were not run now
    value = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **(facts or host()),
        "results": [r for r in old if r["what"] not in new]
        + [{**asdict(r), "value": round(r.value, 3), "met": r.met} for r in results],
    }
    folder.mkdir(exist_ok=True)
    kept.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
