"""A smaller setting after a start without memory: what engines report, what follows, and that it is remembered.

No GPU is here, so vLLM is played by a program that prints vLLM's own words and ends as it does, until it is asked for
what would fit; everything above it is real. llama-server itself is in tests/e2e/test_failures.py.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployer import profile
from deployer.errors import EngineDied
from deployer.fetch import Web
from deployer.home import Home
from deployer.host import Host, Unknown
from deployer.images.bake import BuildSettings
from deployer.plan import Choice, World, apply, before, load_record, resolve, steps
from deployer.plan.smaller import Shortage, recall, shortage
from deployer.plan.steps import Provision, Step
from deployer.profile import GpuNeed, Serving
from deployer.runtimes import Launch, ProcessRuntime
from deployer.sizing import wanted
from tests import hosts
from tests.servers import unused_port

TEXTS = yaml.safe_load((Path(__file__).parent / "failures.yaml").read_text())
NAMED = {path.stem: profile.load(path) for path in profile.shipped()}
CARD = hosts.gpu(name="some card", vram=8188, capability="8.9")
HOST = replace(hosts.RTX, gpus=(CARD,))


class Noted(ProcessRuntime):
    """Each start is noted here: an engine writes nowhere but in its own folder, which the next start empties."""

    file: Path

    def start(self, launch: Launch) -> None:
        told = dict(itertools.pairwise(launch.parts[0].arguments))
        if "--max-model-len" in told:
            with self.file.open("a") as file:
                print(told["--max-model-len"], told["--max-num-seqs"], told["--gpu-memory-utilization"], file=file)
        super().start(launch)


VLLM = """#!{python}
import http.server, json, sys
told = dict(zip(sys.argv, sys.argv[1:]))
if int(told["--max-model-len"]) > {fits} or float(told["--gpu-memory-utilization"]) > {share}:
    print(open({log!r}).read().replace("HALF", str(int(told["--max-model-len"]) // 2)), flush=True)
    sys.exit(1)
class Engine(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        for word in ("The ", "capital ", "is ", "Paris."):
            piece = {{"choices": [{{"delta": {{"content": word}}}}]}}
            self.wfile.write(b"data: " + json.dumps(piece).encode() + b"\\n\\n")
    def log_message(self, *arguments):
        pass
http.server.HTTPServer((told["--host"], int(told["--port"])), Engine).serve_forever()
"""


@dataclass
class Heard:
    """Progress that keeps what was said."""

    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)

    def amount(self, title: str, done: int, total: int | None, unit: str = "B") -> None:
        pass


def text(name: str, part: str = "") -> str:
    """A real text of that signature, the one whose source has `part` in its address."""
    return str(next(one["text"] for one in TEXTS if one["name"] == name and part in one["source"]))


def llama(folder: Path) -> Path:
    """A folder with a Llama of two layers, of zeros."""
    folder.mkdir()
    hidden, wide, vocabulary = 64, 128, 256
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for layer in range(2):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{n}_proj.weight": (hidden, hidden) for n in "qkvo"}
        shapes |= {f"{at}.mlp.{n}_proj.weight": (wide, hidden) for n in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (hidden, wide), f"{at}.input_layernorm.weight": (hidden,),
                   f"{at}.post_attention_layernorm.weight": (hidden,)}  # fmt: skip
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (end, end + size)}
        end += size
    raw = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(end))
    (folder / "config.json").write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": hidden, "vocab_size": vocabulary,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": wide,
        "max_position_embeddings": 131072, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    }))  # fmt: skip
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    return folder


@dataclass
class Bench:
    """One deployment of the played vLLM: `fits` tokens and `share` of the GPU are what it starts with."""

    home: Home
    folder: Path
    heard: Heard = field(default_factory=Heard)

    def choice(self, log: str, *, fits: int, share: float = 1.0, **serving: Any) -> Choice:
        values = {"api_key": "none", "port": unused_port(), **serving}
        asked = replace(
            NAMED["gpu-8gb"], engine="vllm", image="vllm", variant="cu130", path=self.folder / "small.yaml",
            requirements=replace(NAMED["gpu-8gb"].requirements, gpu=GpuNeed()), serving=Serving(**values),
            model=replace(NAMED["gpu-8gb"].model, source=f"file://{self.folder / 'model'}", files=()),
        )  # fmt: skip
        (self.folder / "log").write_text(log)
        program = self.folder / "vllm"
        program.write_text(VLLM.format(
            python=sys.executable, log=str(self.folder / "log"), fits=fits,
            share=share,
        ))  # fmt: skip
        program.chmod(0o755)
        made = resolve(
            HOST, asked, home=self.home, runtime=("docker", "a reason"), base="debian:x", name="small",
            before=(131072, 4, "so"),
        )  # fmt: skip
        return replace(made, runtime="process", program=str(program), gateway="gateway")

    def world(self, facts: Host = HOST) -> World:
        runtime = Noted(self.home, os.environ)
        runtime.file = self.folder / "starts"
        return World(
            self.home, Web(), BuildSettings("linux/amd64"), runtime, lambda name: runtime, self.heard, facts, 30.0
        )

    def up(self, choice: Choice) -> Any:
        world = self.world()
        return apply(choice, self.steps(choice, world), world)

    def steps(self, choice: Choice, world: World) -> tuple[Step, ...]:
        made = steps(choice, home=self.home, runtime=world.runtime, generation=1)
        return tuple(step for step in made if not isinstance(step, Provision))

    def starts(self) -> list[tuple[int, int, float]]:
        lines = (self.folder / "starts").read_text().splitlines()
        return [(int(a), int(b), float(c)) for a, b, c in map(str.split, lines)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    llama(tmp_path / "model")
    made = Bench(Home(tmp_path / "home"), tmp_path)
    yield made
    runtime = made.world().runtime
    for unit in runtime.units():
        runtime.stop(unit.name)


CONTEXT = text("vllm.context", "tpu-inference")  # 131072 asked for, 5632 fit


def test_what_vllm_says_would_fit_is_started_once_said_and_remembered(bench: Bench) -> None:
    record = bench.up(bench.choice(CONTEXT, fits=5632))
    assert [start[0] for start in bench.starts()] == [131072, 5632]
    assert (record.context, record.concurrency) == (5632, 1)
    said = "\n".join(bench.heard.lines)
    assert "one request of 131072 tokens needs a cache of 16.00 GiB, and 0.71 GiB are left" in said
    assert "it says that its cache holds 5632 tokens: starting again, once, with 1 × 5632 tokens" in said
    kept = recall(bench.home, "small", record.model_id, HOST, bench.heard.say)
    assert kept and (kept.context, kept.users) == (5632, 1) and "131072" in kept.because


def test_it_is_started_again_once_and_no_more(bench: Bench) -> None:
    with pytest.raises(EngineDied, match="one request of 131072 tokens"):
        bench.up(bench.choice(CONTEXT.replace("length is 5632", "length is HALF"), fits=0))
    assert [start[0] for start in bench.starts()] == [131072, 65536]
    assert load_record(bench.home, "small") is None
    assert recall(bench.home, "small", "any", HOST, bench.heard.say) is None
    assert bench.world().runtime.find("small") is None


def test_a_profile_that_names_its_context_is_told_what_would_fit_and_is_not_overridden(bench: Bench) -> None:
    with pytest.raises(EngineDied) as caught:
        bench.up(bench.choice(CONTEXT, fits=5632, context=131072, concurrency=2))
    assert len(bench.starts()) == 1
    assert f"{bench.folder / 'small.yaml'} names more" in str(caught.value.hint)
    assert "serving: {context: 5632, concurrency: 1}" in str(caught.value.hint)
    assert caught.value.log and "estimated maximum model length" in caught.value.log.read_text()


def test_what_the_profile_names_stays_and_the_rest_gives_way(bench: Bench) -> None:
    record = bench.up(bench.choice(CONTEXT, fits=5632, concurrency=2))
    assert (record.context, record.concurrency) == (2816, 2)
    with pytest.raises(EngineDied, match="needs a cache"):
        bench.up(bench.choice(CONTEXT, fits=5632, context=131072))


def test_a_gpu_that_others_use_gives_the_engine_what_is_free_of_it(bench: Bench) -> None:
    record = bench.up(bench.choice(text("vllm.taken", "25837"), fits=1 << 30, share=0.79))
    assert [start[2] for start in bench.starts()] == [0.92, 0.79]  # 3.22 of 4.0 GiB are 0.805
    assert (record.context, record.concurrency) == (131072, 4)
    assert any("79% of the GPU's memory" in line for line in bench.heard.lines)
    assert recall(bench.home, "small", record.model_id, HOST, bench.heard.say) is None  # it is free again some day


def test_what_another_cause_ended_is_not_started_again(bench: Bench) -> None:
    with pytest.raises(EngineDied, match="no code for some card"):
        bench.up(bench.choice(text("driver.kernels", "18995"), fits=0))
    assert len(bench.starts()) == 1


def test_a_gpu_with_next_to_nothing_free_is_no_case_for_a_smaller_setting(bench: Bench) -> None:
    full = text("vllm.taken", "25837").replace("(3.22/4.0 GiB)", "(0.11/4.0 GiB)")
    with pytest.raises(EngineDied, match=r"0\.11 of 4\.0 GiB are free"):
        bench.up(bench.choice(full, fits=0))
    assert len(bench.starts()) == 1


@pytest.mark.parametrize(
    ("name", "part", "engine", "expected"),
    [
        ("vllm.context", "recipes", "vllm", {"tokens": 199552}),
        ("vllm.context", "16118", "vllm", {"tokens": 435595}),  # without an estimate: 9.97 of 24 GiB for 1,048,576
        ("vllm.context_before_v1", "", "vllm", {"tokens": 7344}),
        ("torch.cuda_memory", "27508", "vllm", {"lacking": int((786.0 - 140.75) * 2**20)}),
        ("llamacpp.cache", "8101", "llamacpp", {"tokens": 131072 * 4 // 2}),
        ("llamacpp.compute", "6860", "llamacpp", {"lacking": 2 * 150995968}),
        ("llamacpp.memory", "1300000", "llamacpp", {"tokens": 131072 * 4 // 2}),
        ("system.killed", "supervisor", "llamacpp", {"tokens": 131072 * 4 // 2}),
        ("system.killed", "supervisor", "vllm", None),
        ("vllm.no_cache", "118", "vllm", None),
        ("llamacpp.weights", "", "llamacpp", None),
        ("llamacpp.cut_short", "", "llamacpp", None),
        ("torch.cpu_memory", "", "transformers", None),
    ],
)
def test_what_engines_report_is_read_from_their_real_words(
    bench: Bench, name: str, part: str, engine: str, expected: dict[str, int] | None
) -> None:
    from deployer.engines import engine as named

    choice = replace(bench.choice("", fits=0), engine=named(engine))
    found = shortage(text(name, part).splitlines(), choice)
    if expected is None:
        assert found is None
    else:
        assert isinstance(found, Shortage)
        assert {key: getattr(found, key) for key in expected} == expected


def test_fewer_users_come_before_less_context() -> None:
    any_profile = replace(NAMED["cpu-small"], serving=Serving())
    fits = lambda context, users: context * users <= 20_000  # noqa: E731
    assert wanted.less(any_profile, (8192, 4), fits) == (8192, 2)
    assert wanted.less(any_profile, (32768, 4), fits) == (19968, 1)
    assert wanted.less(any_profile, (1024, 2), fits) == (1024, 2)
    assert wanted.less(any_profile, (8192, 4), lambda context, users: False) is None
    both = replace(any_profile, serving=Serving(context=8192, concurrency=4))
    assert wanted.less(both, (8192, 4), fits) is None
    users = replace(any_profile, serving=Serving(concurrency=4))
    assert wanted.less(users, (8192, 4), fits) == (4864, 4)
    context = replace(any_profile, serving=Serving(context=8192))
    assert wanted.less(context, (8192, 4), fits) == (8192, 2)


def test_what_is_remembered_is_forgotten_with_the_memory_or_the_model(bench: Bench) -> None:
    choice = bench.choice(CONTEXT, fits=5632)
    record = bench.up(choice)
    asked = choice.profile

    def left(facts: Host = HOST, **model: Any) -> tuple[int, int, str] | None:
        wanted_now = replace(asked, model=replace(asked.model, **model))
        return before(bench.home, "small", wanted_now, load_record(bench.home, "small"), facts, bench.heard.say)

    kept = left()
    assert kept and kept[:2] == (5632, 1) and kept[2].startswith("remembered, because the engine said: ")
    assert left(replace(HOST, gpus=Unknown("NVML: timeout"))) == kept  # nobody knows; it stays
    path = bench.home.deployment("small") / "smaller.json"
    saved = path.read_text()
    larger = replace(HOST, gpus=(hosts.gpu(name="some card", vram=16000, capability="8.9"),))
    only_asked = before(bench.home, "small", asked, None, larger, bench.heard.say, forget=False)
    assert only_asked is None and path.exists()
    assert left(larger) is None and not path.exists()
    assert "the host's memory is another than when 1 × 5632 tokens were remembered" in bench.heard.lines[-1]
    path.write_text(saved)
    assert left(source="file:///elsewhere") is None and not path.exists()
    assert bench.heard.lines[-1].startswith("the model is another")
    # without it, the record of what was accepted counts, as before
    again = left()
    assert again == (5632, 1, "as it was chosen before") and record.context == 5632
