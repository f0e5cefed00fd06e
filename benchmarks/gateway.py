"""The gateway beside the bare engine and beside nginx on the same engine: `make bench-gateway`.

A stub engine (benchmarks/engine_stub.py) streams tokens at a fixed rate, so that what the door adds is seen, and as
fast as it can, so that what a token costs is seen. All ways are measured in turn in each round.

`--soak MINUTES` instead asks in all manners for so long, with clients that go away at random: memory, open files and
generations that nobody reads are watched.

    python benchmarks/gateway.py --rounds 5 --save
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from run import ROOT, Ratio, host, save

KEY = "sk-bench"
PATH = "/v1/chat/completions"
PACE = 50.0  # tokens per second of each stream, as a small model on a GPU gives
TOKENS = 200
NGINX = """
worker_processes 1; daemon off; pid {work}/nginx.pid; error_log {work}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f;
  uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{engine}; proxy_http_version 1.1; proxy_buffering off; }}
  }}
}}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the results in benchmarks/data/gateway.json")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    options = parser.parse_args()
    before = os.getloadavg()
    work = Path(tempfile.mkdtemp(prefix="deployer-bench-"))
    results = []
    try:
        with ways(work) as (urls, pids):
            found = soaked(urls, pids, options.soak) if options.soak else measures(urls, pids, options.rounds)
            for ratio in found:
                print(ratio, flush=True)
                results.append(ratio)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.save:
        load = {"before": before, "after": os.getloadavg()}
        how = {"minutes": options.soak} if options.soak else {"rounds": options.rounds}
        save(results, "soak.json" if options.soak else "gateway.json", load=load, **how, **host())
    return 0 if all(ratio.met for ratio in results) else 1


def measures(urls: dict[str, str], pids: dict[str, int], rounds: int) -> Iterator[Ratio]:
    for streams in (1, 8, 32):
        runs = in_turn(urls, rounds, lambda url, n=streams: asked(url, n, TOKENS // 2, PACE))  # type: ignore[misc]
        first = {way: statistics.median(t for run in found for t in run["firsts"]) for way, found in runs.items()}
        rate = {way: statistics.median(run["rate"] for run in found) for way, found in runs.items()}
        added = 1000 * (first["gateway"] - first["engine"])
        yield Ratio(f"time to first token that it adds, {streams} streams", added, 1, "ms", 3.0)
        yield Ratio(f"the same, nginx, {streams} streams", 1000 * (first["nginx"] - first["engine"]), 1, "ms", 3.0)
        yield Ratio(f"tokens/s, {streams} streams", rate["gateway"], rate["engine"], "tokens/s", 0.97, at_most=False)
    costs: dict[str, list[float]] = {way: [] for way in pids}
    rates: dict[str, list[float]] = {way: [] for way in urls}
    for _ in range(rounds):
        for way, url in urls.items():
            begin = processor(pids[way]) if way in pids else 0.0
            run = asyncio.run(asked(url, 16, TOKENS, 0, again=6))
            rates[way].append(run["requests"] / run["took"])
            if way in pids:
                costs[way].append((processor(pids[way]) - begin) / run["tokens"])
    cost = {way: statistics.median(found) for way, found in costs.items()}
    rate = {way: statistics.median(found) for way, found in rates.items()}
    yield Ratio("processor time for each token, against nginx", 1e6 * cost["gateway"], 1e6 * cost["nginx"], "µs", 6.0)
    yield Ratio("requests/s of 200 tokens, against nginx", rate["gateway"], rate["nginx"], "1/s", 0.2, at_most=False)
    run = asyncio.run(asked(urls["gateway"], 500, 150, 30, watch=pids["gateway"]))
    yield Ratio("resident memory at 500 open streams", run["memory"] / 1e6, 1, "MB", 80)


def soaked(urls: dict[str, str], pids: dict[str, int], minutes: float) -> Iterator[Ratio]:
    """Mixed load: what the gateway holds after it, against what it held after the first tenth."""
    pid = pids["gateway"]
    asyncio.run(mixed(urls["gateway"], minutes * 6))
    time.sleep(2)
    early = resident(pid), opened(pid)
    ended, gone = asyncio.run(mixed(urls["gateway"], minutes * 54))
    print(f"{ended} requests ended, {gone} clients went away", flush=True)
    time.sleep(2)
    with urllib.request.urlopen(f"{urls['engine']}/running") as answer:
        orphans = json.load(answer)["running"]
    yield Ratio("resident memory after it, against its first tenth", resident(pid) / 1e6, early[0] / 1e6, "MB", 1.1)
    yield Ratio("open files after it, against its first tenth", opened(pid), early[1], "", 1.0)
    yield Ratio("generations that nobody reads", orphans, 1, "", 0)


async def mixed(url: str, seconds: float) -> tuple[int, int]:
    """Clients of all manners for so long: how many requests ended, and how many clients went away before."""
    until = time.monotonic() + seconds
    counts = [0, 0]
    choose = random.Random(1)
    headers = {"Authorization": f"Bearer {KEY}"}
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as client:

        async def one() -> None:
            while time.monotonic() < until:
                kind = choose.random()
                body: dict[str, Any] = {"model": "stub", "messages": [{"role": "user", "content": "x" * 200}]}
                body |= {"stream": True, "max_tokens": choose.randrange(1, 200), "user": choose.choice(["0", "50"])}
                if kind < 0.1:
                    body = {"model": "nobody"}
                patience = choose.uniform(0.0, 1.0) if kind > 0.7 else 60.0
                try:
                    async with asyncio.timeout(patience):
                        async with client.post(f"{url}{PATH}", json=body, headers=headers) as answer:
                            async for _ in answer.content.iter_any():
                                pass
                    counts[0] += 1
                except TimeoutError:
                    counts[1] += 1
                await asyncio.sleep(choose.uniform(0, 0.2))

        await asyncio.gather(*(one() for _ in range(24)))
    return counts[0], counts[1]


def in_turn(urls: dict[str, str], rounds: int, ask: Callable[[str], Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in urls}
    for _ in range(rounds):
        for way, url in urls.items():
            found[way].append(asyncio.run(ask(url)))
    return found


async def asked(url: str, streams: int, tokens: int, pace: float, *, again: int = 1, watch: int = 0) -> dict[str, Any]:
    """`streams` clients at once, each `again` times: seconds to each first token, tokens/s in all, resident memory."""
    firsts: list[float] = []
    counts: list[int] = []
    memory = 0.0
    body = {"model": "stub", "messages": [{"role": "user", "content": "Hello"}], "stream": True, "max_tokens": tokens}
    headers = {"Authorization": f"Bearer {KEY}"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as client:

        async def one(number: int) -> None:
            await asyncio.sleep(number * 0.0007)  # clients do not come in one instant
            for _ in range(again):
                begin = time.perf_counter()
                count, first = 0, 0.0
                async with client.post(f"{url}{PATH}", json={**body, "user": str(pace)}, headers=headers) as answer:
                    assert answer.status == 200, await answer.text()
                    async for piece in answer.content.iter_any():
                        found = piece.count(b'"content":" token"')
                        if found and not count:
                            first = time.perf_counter() - begin
                        count += found
                assert count == tokens, f"{count} of {tokens} tokens came"
                firsts.append(first)
                counts.append(count)

        begin = time.perf_counter()
        tasks = [asyncio.ensure_future(one(number)) for number in range(streams)]
        if watch:
            await asyncio.sleep(2.5)
            memory = resident(watch)
        await asyncio.gather(*tasks)
        took = time.perf_counter() - begin
    return {"firsts": firsts, "rate": sum(counts) / took, "tokens": sum(counts), "requests": len(counts), "took": took,
            "memory": memory}  # fmt: skip


@contextmanager
def ways(work: Path) -> Iterator[tuple[dict[str, str], dict[str, int]]]:
    """Addresses of the bare engine, the gateway and nginx, and process ids of the latter two."""
    engine, door, proxy = (unused_port() for _ in range(3))
    replica = {"name": "stub", "url": f"http://127.0.0.1:{engine}", "model": "stub", "slots": 1000}
    model = {"id": "stub", "engine": "llamacpp", "context": 4096, "paths": [PATH], "replicas": [replica]}
    (work / "gateway.json").write_text(json.dumps({"deployment": "bench", "generation": 1, "models": [model]}))
    (work / "keys.json").write_text(
        json.dumps({"keys": [{"name": "bench", "hash": hashlib.sha256(KEY.encode()).hexdigest()}]})
    )
    (work / "nginx.conf").write_text(NGINX.format(work=work, port=proxy, engine=engine))
    python = [sys.executable]
    commands = {
        "engine": [*python, str(ROOT / "benchmarks/engine_stub.py"), str(engine)],
        "gateway": [*python, "-m", "deployer.gateway", "--config", str(work), "--port", str(door)],
        "nginx": ["nginx", "-p", str(work), "-c", str(work / "nginx.conf")],
    }
    with ExitStack() as stack:
        pids = {}
        for name, command in commands.items():
            with (work / f"{name}.out").open("wb") as out:
                child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
            stack.callback(child.wait)
            stack.callback(child.terminate)
            pids[name] = child.pid
        for port in (engine, door, proxy):
            deadline = time.monotonic() + 20
            while not listens(port):
                if time.monotonic() > deadline:
                    raise SystemExit("".join(path.read_text() for path in work.glob("*.out")))
                time.sleep(0.05)
        workers = Path(f"/proc/{pids['nginx']}/task/{pids['nginx']}/children").read_text().split()
        urls = {name: f"http://127.0.0.1:{port}" for name, port in
                (("engine", engine), ("gateway", door), ("nginx", proxy))}  # fmt: skip
        yield urls, {"gateway": pids["gateway"], "nginx": int(workers[0])}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processor(pid: int) -> float:
    """Seconds of processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def opened(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))


if __name__ == "__main__":
    sys.exit(main())
