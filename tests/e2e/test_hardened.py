"""What a deployment may do and what others see of it, asked of the kernel and tried from inside its containers."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Box, profile

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

# Run where the engine's network is. Each line of stdin is a connection to try; each line of stdout how it went.
REACH = """
import json, socket, sys
for line in sys.stdin:
    kind, family, address, port = json.loads(line)
    with socket.socket(getattr(socket, family), getattr(socket, kind)) as one:
        one.settimeout(3)
        try:
            place = socket.getaddrinfo(address, port, one.family, one.type)[0][4]
            one.connect(place)
            if kind == "SOCK_DGRAM":  # a question for example.com, type A
                one.send(bytes.fromhex("beef01000001000000000000076578616d706c6503636f6d0000010001"))
                said = one.recv(512)
                answers = int.from_bytes(said[6:8], "big")
                print(f"{answers} answers" if answers else f"refused with {said[3] & 15}")
            else:
                print("connected")
        except OSError as error:
            print(type(error).__name__, error)
"""


def patient(box: Box, **changes: str) -> str:
    """A profile that asks for no speed: this is not about that."""
    return profile(box, "small", limits="{first_token: 120 s, per_token: 30 s}", **changes)


def up(box: Box, runtime: str = "docker", **changes: str) -> Any:
    """Brought up; where others use the machine, a miss in speed alone is no answer to what is asked here."""
    for _ in range(4):
        words = ("up", patient(box, **changes), "--runtime", runtime, "--port", str(box.port), "--json")
        done = box.run(*words, code=None)
        if done.returncode == 0:
            break
        assert "this host should give at least" in done.stdout, done.stderr
    return json.loads(done.stdout)


def docker(*words: str, code: int | None = 0) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120)
    assert code is None or done.returncode == code, f"docker {shlex.join(words)}: {done.stderr}"
    return done.stdout


def containers(box: Box) -> dict[str, dict[str, Any]]:
    """What the engine says of this box's containers, by their role."""
    names = docker("ps", "-a", "--format", "{{.Names}}").split()
    mine = [name for name in box.containers() if name in names]
    found = json.loads(docker("inspect", *mine)) if mine else []
    return {one["Config"]["Labels"]["io.deployer.role"]: one for one in found}


def program(container: dict[str, Any]) -> int:
    """The pid, on this machine, of what the container's init started."""
    first = container["State"]["Pid"]
    return int(Path(f"/proc/{first}/task/{first}/children").read_text().split()[0])


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def inside(container: dict[str, Any], script: str) -> str:
    """What a shell of the container's own user says there, errors too."""
    return docker("exec", container["Id"], "sh", "-c", f"{{ {script}; }} 2>&1", code=None)


def root_only(what: str) -> None:
    if os.geteuid() != 0 or not shutil.which("nsenter"):
        reason = f"needs root and nsenter: {what}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.mark.parametrize("engine", ["llamacpp", "transformers"])
def test_containers_are_confined(box: Box, engine: str) -> None:
    up(box, engine=engine)
    found = containers(box)
    assert found.keys() == {"engine", "gateway"}
    assert [role for role, one in found.items() if one["HostConfig"]["PortBindings"]] == ["gateway"]
    for role, one in found.items():
        host, config = one["HostConfig"], one["Config"]
        assert config["User"] not in ("", "0", "root", "0:0"), role
        assert host["ReadonlyRootfs"] and host["Init"] and not host["Privileged"]
        assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], None)
        assert host["SecurityOpt"] == ["no-new-privileges", "seccomp=builtin"]
        assert (host["PidsLimit"], host["IpcMode"], host["PidMode"], host["UsernsMode"]) == (2048, "private", "", "")
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
        writable = [mount["Destination"] for mount in one["Mounts"] if mount["RW"]]
        assert writable == (["/run/deployer/state"] if role == "gateway" else [])
        wanted = {"HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "CUDA_DEVICE_ORDER=PCI_BUS_ID", "DO_NOT_TRACK=1"}
        assert wanted <= set(config["Env"])

        pid = program(one)
        told = status(pid)
        owner = config["User"].split(":")[0]
        assert set(told["Uid"].split()) == {owner} and owner != "0"
        assert {told[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")
        assert Path(f"/proc/{one['State']['Pid']}/comm").read_text().strip() == "docker-init"
        assert status(one["State"]["Pid"])["NSpid"].split()[-1] == "1"

        mounts = {line.split()[4]: line for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()}
        assert mounts["/"].split()[5].split(",")[0] == "ro"
        tmp = mounts["/tmp"]
        assert {"rw", "noexec", "nosuid", "nodev"} <= set(tmp.split()[5].split(",")) and "size=1048576k" in tmp
        assert "size=65536k" in mounts["/dev/shm"]

        for place in ("/", "/etc/", "/opt/"):
            said = inside(one, f"echo x > {place}probe")
            assert "Read-only file system" in said or "Permission denied" in said, (place, said)
        assert "Read-only file system" in inside(one, "touch /")  # the mode alone would say "denied"
        assert "denied" in inside(one, "cp /bin/true /tmp/run && /tmp/run")
        assert inside(one, "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max").count("2048") == 1
        full = inside(one, "head -c 1100M /dev/zero > /tmp/full; stat -c %s /tmp/full; rm /tmp/full").splitlines()
        assert "No space left" in full[0] and int(full[-1]) <= 1 << 30
    models = [m for m in found["engine"]["Mounts"] if m["Destination"].startswith("/models/")]
    assert len(models) == 1
    said = inside(found["engine"], f"cd {models[0]['Destination']} && touch new; echo x >> manifest.json")
    assert "'new': Read-only file system" in said and "cannot create manifest.json" in said


@pytest.fixture
def listeners() -> Iterator[int]:
    """A port on which this machine answers at every address, over TCP (IPv4 and IPv6)."""
    with ExitStack() as stack:
        four = stack.enter_context(socket.create_server(("0.0.0.0", 0), backlog=50))
        port = four.getsockname()[1]
        try:
            stack.enter_context(socket.create_server(("::", port), family=socket.AF_INET6, backlog=50))
        except OSError:
            pass  # this machine has no IPv6
        yield port


def addresses() -> list[tuple[str, str]]:
    """This machine's own: (family, address)."""
    found = []
    for one in json.loads(subprocess.run(["ip", "-j", "addr"], capture_output=True, check=True).stdout):
        for about in one["addr_info"]:
            scope = f"%{one['ifname']}" if about["scope"] == "link" and about["family"] == "inet6" else ""
            if about["scope"] != "host":
                found.append(("AF_INET6" if about["family"] == "inet6" else "AF_INET", about["local"] + scope))
    return found


def reach(wanted: list[tuple[str, str, str, int]], *before: str) -> list[str]:
    lines = "\n".join(json.dumps(one) for one in wanted)
    command = [*before, sys.executable, "-c", REACH]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=600, check=True)
    return done.stdout.splitlines()


def test_an_engine_reaches_nobody(box: Box, listeners: int) -> None:
    """Behind the gateway its network has no way out: not to this machine, not past it, not by name."""
    root_only("this Python is run in the container's network")
    up(box)
    found = containers(box)
    engine = found["engine"]
    (network,) = json.loads(docker("network", "inspect", *engine["NetworkSettings"]["Networks"]))
    assert network["Internal"] and not engine["HostConfig"]["PortBindings"]
    gateways = [about["Gateway"].split("/")[0] for about in network["IPAM"]["Config"]]
    wanted = [("SOCK_STREAM", family, address, listeners) for family, address in addresses()]
    own = list(wanted)
    wanted += [("SOCK_STREAM", "AF_INET", address, listeners) for address in gateways]
    wanted += [("SOCK_STREAM", "AF_INET", address, 443) for address in ("1.1.1.1", "8.8.8.8", "169.254.169.254")]
    wanted += [("SOCK_STREAM", "AF_INET6", "2606:4700:4700::1111", 443)]
    wanted += [("SOCK_DGRAM", "AF_INET", address, 53) for address in ("127.0.0.11", "1.1.1.1", *gateways)]
    wanted += [("SOCK_STREAM", "AF_INET", "example.com", 443)]

    there = ("nsenter", "-t", str(program(engine)), "-n")
    went = reach(wanted, *there)
    assert len(went) == len(wanted)
    for one, how in zip(wanted, went, strict=True):
        assert how != "connected" and "answers" not in how, (one, how)

    # The trial sees what can be reached: the listener from this machine, the engine from its own network.
    assert "connected" in reach(own)
    (address,) = [about["IPAddress"] for about in engine["NetworkSettings"]["Networks"].values()]
    assert reach([("SOCK_STREAM", "AF_INET", address, 8080)], *there) == ["connected"]
    door = ("nsenter", "-t", str(program(found["gateway"])), "-n")
    assert reach([("SOCK_STREAM", "AF_INET", address, 8080)], *door) == ["connected"]
    interfaces = subprocess.run([*there, "ip", "-j", "addr"], capture_output=True, check=True).stdout
    told = [about for one in json.loads(interfaces) for about in one["addr_info"]]
    assert [about["family"] for about in told if about["scope"] == "global"] == ["inet"], "one address, and no IPv6"


LOOK = """
import json, pathlib, sys
needles = [word.encode() for word in sys.argv[1:]]
found, read = [], 0
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    for name in ("cmdline", "environ"):
        try:
            text = (folder / name).read_bytes()
        except OSError:
            continue
        read += bool(text)
        if folder.name != str(__import__("os").getpid()):
            found += [f"{folder.name}/{name}" for needle in needles if needle in text]
print(json.dumps([read, found]))
"""


def test_no_secret_is_where_others_look(box: Box, runtime: str) -> None:
    token = "hf_" + "Secret" * 6
    words = ("up", patient(box), "--runtime", runtime, "--port", str(box.port), "--json")
    child = box.start(*words, env={**box.environment(), "HF_TOKEN": token, "OPENAI_API_KEY": token})
    out, err = child.communicate(timeout=1800)
    assert child.returncode == 0, err
    folder = box.home / "deployments/small"
    key = (folder / "key").read_text().strip()
    secrets = [key, token]

    if runtime == "docker":
        told = json.dumps(list(containers(box).values())) + docker("ps", "-a", "--no-trunc")
        assert not [one for one in secrets if one in told]
    # with a program that has them in its arguments, so that the search is known to find
    with subprocess.Popen(["sh", "-c", "sleep 60; true", *secrets]) as bait:
        done = subprocess.run([sys.executable, "-c", LOOK, *secrets], capture_output=True, text=True, check=True)
        read, found = json.loads(done.stdout)
        bait.kill()
    assert read > 10 and {one.split("/")[0] for one in found} == {str(bait.pid)}
    said = box.run("inspect", "--json", code=None).stdout + box.run("logs").stdout + out + err
    assert not [one for one in secrets if one in said]

    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"key", "engine.key", "deployment.json", "gateway.json", "keys.json"} <= {path.name for path in files}
    assert not [path for path in files if open_to_others(path, folder)]
    assert open_to_others(folder, folder), "the folder itself is no secret: the trial sees what is open"
    kept = [path.name for path in folder.rglob("*") if path.is_file() and key in path.read_text(errors="replace")]
    assert kept == ["key"], "the gateway knows its hash alone"


def open_to_others(path: Path, top: Path) -> bool:
    """Whether other users can read `path`, by its mode and those of the folders on the way from `top`."""
    way = [path, *(one for one in path.parents if one.is_relative_to(top))]
    return all(stat.S_IMODE(one.stat().st_mode) & 0o055 for one in way)


def test_the_printed_commands_start_the_same(box: Box) -> None:
    result = up(box)
    before = containers(box)
    told = box.json("inspect")
    assert told["as_accepted"] and {part["role"] for part in told["parts"]} == before.keys()
    for part in told["parts"]:
        one = before[part["role"]]
        assert (part["id"], part["identity"], part["state"]) == (one["Id"], one["Image"], "running")
        assert program(one) in part["pids"] and part["limits"]["Seccomp"] == "2"
        assert part["labels"]["io.deployer.lock"].startswith("sha256:")
    assert told["model"]["files"][0]["sha256"]
    assert tuple(told["commands"]) == tuple(
        line.strip() for line in box.run("inspect").stdout.split("the same by hand:\n")[1].splitlines()
    )
    box.run("down", "--keep")
    assert box.containers() == []
    assert box.run("inspect", "--json", code=1)

    for line in told["commands"]:
        subprocess.run(line, shell=True, check=True, capture_output=True)
    root = result["url"].removesuffix("/v1")
    deadline = time.monotonic() + 300
    while not _ready(root):
        assert time.monotonic() < deadline, docker("ps", "-a")
        time.sleep(0.2)
    key = Path(result["key_file"]).read_text().strip()
    body = {"model": result["model"], "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    path = f"{result['url']}/chat/completions"
    assert httpx.post(path, json=body, timeout=60).status_code == 401
    answer = httpx.post(path, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=120)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"]

    after = containers(box)
    assert after.keys() == before.keys()
    for role, one in after.items():
        assert _settings(one) == _settings(before[role]), role
    assert box.json("inspect")["as_accepted"]
    assert box.json("status")["deployments"][0]["state"] == "answers"


def _ready(root: str) -> bool:
    try:
        return httpx.get(f"{root}/health").status_code == 200
    except httpx.HTTPError:
        return False


def _settings(container: dict[str, Any]) -> dict[str, Any]:
    """Everything that was asked for; what differs by chance, or in how nothing is written, is left out."""
    config = {key: value for key, value in container["Config"].items() if key != "Hostname"}
    config["Env"] = sorted(config["Env"])
    chance = ("AttachStdout", "AttachStderr")
    host = {key: value or None for key, value in container["HostConfig"].items() if key != "ConsoleSize"}
    networks = container["NetworkSettings"]["Networks"]
    names = {name: sorted(set(about["Aliases"] or ()) - {container["Id"][:12]}) for name, about in networks.items()}
    return {"config": {k: v for k, v in config.items() if k not in chance}, "host": host, "networks": names}
