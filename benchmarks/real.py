"""The gateway before llama.cpp itself, and what a safety check adds to it: `make bench-real`.

The same llama-server is asked directly, through a gateway, and through gateways that check requests and answers by
patterns with two windows; in turn, in each round, at 1, 8 and 32 streams.

    python benchmarks/real.py --server PATH/llama-server --model FILE.gguf --save
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from gateway import KEY, PATH, listens, unused_port
from run import ROOT, Ratio, host, save

TOKENS = 60
SLOTS = 32
PATTERNS = {"card numbers": r"\b(?:\d[ -]?){13,16}\b", "key": r"sk-[A-Za-z0-9]{20,}", "mail": r"[\w.]+@[\w.]+\.\w+"}
WINDOWS = {"checked, 160 characters": 160, "checked, 20 characters": 20}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, required=True, help="llama-server")
    parser.add_argument("--model", type=Path, required=True, help="a small chat model, GGUF")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the results in benchmarks/data/real.json")
    options = parser.parse_args()
    before, results = os.getloadavg(), []
    with tempfile.TemporaryDirectory() as work, ways(Path(work), options.server, options.model) as urls:
        for ratio in measures(urls, options.rounds):
            print(ratio, flush=True)
            results.append(ratio)
    if options.save:
        load = {"before": before, "after": os.getloadavg()}
        save(results, "real.json", load=load, rounds=options.rounds, model=options.model.name, **host())
    return 0 if all(ratio.met for ratio in results) else 1


def measures(urls: dict[str, str], rounds: int) -> Iterator[Ratio]:
    for url in urls.values():
        asyncio.run(asked(url, 2))  # warm
    for streams in (1, 8, 32):
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in urls}
        for number in range(rounds * (3 if streams == 1 else 1)):
            names = list(urls) if number % 2 else list(urls)[::-1]  # whoever is asked first is not always the same
            for way in names:
                runs[way].append(asyncio.run(asked(urls[way], streams)))
        first = {way: statistics.median(t for run in found for t in run["firsts"]) for way, found in runs.items()}
        last = {way: statistics.median(t for run in found for t in run["wholes"]) for way, found in runs.items()}
        rate = {way: statistics.median(run["rate"] for run in found) for way, found in runs.items()}
        added = 1000 * (first["gateway"] - first["engine"])
        yield Ratio(f"time to first token that it adds, {streams} streams", added, 1, "ms", 3.0)
        yield Ratio(f"tokens/s, {streams} streams", rate["gateway"], rate["engine"], "tokens/s", 0.97, at_most=False)
        for way in WINDOWS:
            held = 1000 * (first[way] - first["gateway"])
            yield Ratio(f"time to first token that the check adds, {way}, {streams} streams", held, 1, "ms", 1e9)
            yield Ratio(f"time of the whole answer, {way}, {streams} streams", last[way], last["gateway"], "s", 1.03)


async def asked(url: str, streams: int) -> dict[str, Any]:
    """`streams` clients at once: seconds to the first text, and to the end, of each; tokens/s in all."""
    body = {
        "model": "m", "stream": True, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "cache_prompt": False,
        "messages": [{"role": "user", "content": "Tell a long story of a ship."}],
    }  # fmt: skip
    firsts: list[float] = []
    wholes: list[float] = []
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:

        async def one() -> None:
            begin, first = time.perf_counter(), 0.0
            async with client.post(f"{url}{PATH}", json=body, headers={"Authorization": f"Bearer {KEY}"}) as answer:
                assert answer.status == 200, await answer.text()
                async for line in answer.content:
                    if first or not line.startswith(b"data: {"):
                        continue
                    choices = json.loads(line[6:])["choices"]
                    if choices and choices[0]["delta"].get("content"):
                        first = time.perf_counter() - begin
            firsts.append(first)
            wholes.append(time.perf_counter() - begin)

        begin = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(streams)))
        took = time.perf_counter() - begin
    return {"firsts": firsts, "wholes": wholes, "rate": streams * TOKENS / took}


@contextmanager
def ways(work: Path, server: Path, model: Path) -> Iterator[dict[str, str]]:
    """Addresses of the engine and of the gateways before it."""
    ports = {name: unused_port() for name in ("engine", "gateway", *WINDOWS)}
    replica = {"name": "g1-1", "url": f"http://127.0.0.1:{ports['engine']}", "model": "m", "slots": SLOTS}
    about = {"id": "m", "engine": "llamacpp", "context": 1024, "paths": [PATH], "replicas": [replica]}
    keys = {"keys": [{"name": "owner", "hash": hashlib.sha256(KEY.encode()).hexdigest()}]}
    threads = str(os.cpu_count() or 1)
    commands = [
        [str(server), "--model", str(model), "--alias", "m", "--port", str(ports["engine"]), "--parallel", str(SLOTS),
         "--ctx-size", str(SLOTS * 512), "--threads", threads, "--no-ui", "--offline"],
    ]  # fmt: skip
    for name in ("gateway", *WINDOWS):
        folder = work / name
        folder.mkdir()
        told: dict[str, Any] = {"deployment": "bench", "generation": 1, "models": [about]}
        if name in WINDOWS:
            told["safety"] = {"patterns": PATTERNS, "window": WINDOWS[name]}
        (folder / "gateway.json").write_text(json.dumps(told))
        (folder / "keys.json").write_text(json.dumps(keys))
        python = [sys.executable, "-m", "deployer.gateway"]
        commands.append([*python, "--config", str(folder), "--port", str(ports[name])])
    with ExitStack() as stack, (work / "out").open("wb") as out:
        for command in commands:
            environment = {**os.environ, "GOMP_SPINCOUNT": "300"}
            child = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=environment)
            stack.callback(child.wait)
            stack.callback(child.terminate)
        deadline = time.monotonic() + 60
        for port in ports.values():
            while not listens(port):
                if time.monotonic() > deadline:
                    raise SystemExit((work / "out").read_text(errors="replace")[-2000:])
                time.sleep(0.05)
        time.sleep(5)  # the model loads
        yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}


if __name__ == "__main__":
    sys.exit(main())
