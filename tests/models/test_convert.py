"""Conversions before anything runs: what can become what, by which programs, and what their measurements say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from deployer.errors import ModelError, QuestionError
from deployer.fetch import Web
from deployer.home import Home
from deployer.models import Model, Store, convert
from deployer.models.manifest import Loss, Perplexity, Step, StoredFile, keep_loss
from deployer.models.pack import pack, unpack
from deployer.models.pull import pull
from deployer.profile import ModelChoice
from deployer.progress import Silent
from tests.models.headers import CONFIG, llama

# What llama-perplexity of this llama.cpp prints, its two streams in one.
SAID = """0.01.302.504 I perplexity: calculating perplexity over 10 chunks, n_ctx=256, batch_size=2048, n_seq=8
1.32 minutes
1.05.136.651 I perplexity: 63.83 seconds per pass - ETA [1]23.7685,[2]22.1064,[3]26.0734,[4]26.4458,[5]25.1534,\
[6]28.3842,[7]30.9387,[8]28.9104,[9]28.0533,1.44.586.369 I Final estimate: PPL = 27.1130 +/- 2.34153
[10]27.1130,
"""


def model(name: str, quantization: str | None, source: str = "hf://someone/Tiny-1B-Instruct") -> Model:
    format_ = "gguf" if name.endswith(".gguf") else "safetensors"
    files = (StoredFile(name, 1, "0" * 64),)
    return Model("tiny-0123", Path("/store/tiny-0123"), source, None, format_, files, quantization=quantization)


SAFETENSORS = model("model.safetensors", "bfloat16")
F16 = model("gguf/Tiny-1B-Instruct.F16.gguf", "F16")
Q4 = model("Tiny-1B-Instruct-q4_1.gguf", "Q4_1")


@pytest.mark.parametrize(
    ("origin", "wanted", "tools"),
    [
        pytest.param(Q4, "safetensors", ["gguf_to_safetensors.py"], id="gguf to safetensors"),
        pytest.param(SAFETENSORS, "gguf:F16", ["convert_hf_to_gguf.py"], id="to 16-bit gguf"),
        pytest.param(SAFETENSORS, "gguf:q4_k_m", ["convert_hf_to_gguf.py", "llama-quantize"], id="to 4-bit gguf"),
        pytest.param(F16, "gguf:Q8_0", ["llama-quantize"], id="gguf to gguf"),
        pytest.param(model("a.safetensors", None), "gguf:F16", ["convert_hf_to_gguf.py"], id="old config.json"),
        pytest.param(SAFETENSORS, "int8", ["quantize_safetensors.py"], id="8 bits"),
        pytest.param(SAFETENSORS, "INT4", ["quantize_safetensors.py"], id="4 bits"),
    ],
)
def test_what_becomes_what(origin: Model, wanted: str, tools: list[str]) -> None:
    tasks = convert.ways(origin, convert.target(wanted))
    assert [task.tool for task in tasks] == tools
    assert "{out}" in " ".join(tasks[-1].words), "the last one writes the result"
    assert all("python" not in task.words and "{script}" not in task.words for task in tasks)
    assert all(task.script is None or task.script.is_file() for task in tasks)
    if len(tasks) > 1:
        assert all(task.arguments.count("{between}/16-bit.gguf") == 1 for task in tasks)


@pytest.mark.parametrize(
    ("origin", "wanted", "said"),
    [
        pytest.param(Q4, "gguf:Q8_0", "--to safetensors", id="quantized twice"),
        pytest.param(Q4, "int8", "--to safetensors", id="gguf to 8-bit safetensors"),
        pytest.param(F16, "int4", "--to safetensors", id="16-bit gguf to 4-bit safetensors"),
        pytest.param(SAFETENSORS, "safetensors", "nothing", id="as it is"),
        pytest.param(model("a.safetensors", "compressed-tensors"), "int4", "made of", id="quantized safetensors"),
        pytest.param(model("a.safetensors", "fp8"), "safetensors", "nothing", id="quantized safetensors as they are"),
    ],
)
def test_what_nothing_makes_has_another_way(origin: Model, wanted: str, said: str) -> None:
    with pytest.raises(QuestionError) as caught:
        convert.ways(origin, convert.target(wanted))
    assert said in str(caught.value.hint)


@pytest.mark.parametrize("word", ["", "gguf", "gguf:", "gguf:Q9", "Q4_K_M", "int3", "gguf:IQ1_S", "awq"])
def test_formats_that_are_none(word: str) -> None:
    with pytest.raises(QuestionError) as caught:
        convert.target(word)
    assert "gguf:" in str(caught.value.hint) and "Q4_K_M" in str(caught.value.hint)


def test_names() -> None:
    assert convert.filename(Q4, "Q8_0") == "Tiny-1B-Instruct-Q8_0.gguf"
    assert convert.filename(F16, "Q4_K_M") == "Tiny-1B-Instruct-Q4_K_M.gguf"
    assert convert.filename(SAFETENSORS, "F16") == "Tiny-1B-Instruct-F16.gguf"
    wheel = model("model.safetensors", "bfloat16", "pypi://llm-tiny==0.1")
    assert convert.name(wheel) == "llm-tiny"
    names = [convert.identity("tiny-0123", convert.target(f"gguf:{kind}")) for kind in convert.GGUF]
    names += [convert.identity("tiny-0123", convert.target(word)) for word in ("safetensors", "int8", "int4")]
    assert len(set(names)) == len(names)
    assert all(name == Store(Home(Path("/x"))).root.joinpath(name).name == name.lower() for name in names)


def test_perplexity_of_llama_perplexity() -> None:
    found = convert.measured(SAID, "llama-perplexity", "image")
    assert len(found.windows) == 10
    assert found.value == pytest.approx(27.1130, abs=2e-4), "the windows give the whole again"
    assert found.value * found.error == pytest.approx(2.34153, rel=1e-4)
    assert found.windows[0] == pytest.approx(math.log(23.7685), abs=1e-6)
    assert math.exp((found.windows[0] + found.windows[1]) / 2) == pytest.approx(22.1064, abs=1e-3)


def test_perplexity_of_the_script() -> None:
    said = '3/10 windows\nPERPLEXITY {"windows": [3.0, 3.5], "error": 0.1}\n'
    found = convert.measured(said, "perplexity.py", "image")
    assert found == Perplexity((3.0, 3.5), 0.1, "perplexity.py", "image")


@pytest.mark.parametrize("said", ["", "[1]23.7,[2]22.1,", "[2]22.1064, Final estimate: PPL = 27.11 +/- 2.34", "nan"])
def test_a_measurement_that_tells_nothing(said: str) -> None:
    with pytest.raises(ModelError, match="told no perplexity"):
        convert.measured(said, "llama-perplexity", "image")


def loss(before: tuple[float, ...], after: tuple[float, ...]) -> Loss:
    return Loss("f" * 64, 256, Perplexity(before, 0.1, "a", "x"), Perplexity(after, 0.1, "b", "y"))


def test_what_a_conversion_cost() -> None:
    found = loss((3.0, 4.0, 5.0), (3.1, 4.1, 5.1))
    assert found.change == pytest.approx(math.exp(0.1) - 1)
    assert found.change_error == pytest.approx(0, abs=1e-9), "every window lost the same, however they differ"
    assert found.tokens == 3 * 127
    spread = loss((3.0, 4.0, 5.0), (3.0, 4.1, 5.2))
    assert spread.change_error == pytest.approx(math.exp(0.1) * 0.1 / math.sqrt(3))
    assert loss((3.0, 4.0), (3.0, 4.0, 5.0)).change_error is None, "not the same windows"


def test_the_text_is_long_enough_and_plain() -> None:
    text = convert.TEXT.read_text(encoding="utf-8")
    assert 8_000 < len(text) < 16_000
    assert "_Quest._ 31." in text


@pytest.fixture
def converted(tmp_path: Path) -> tuple[Store, Model]:
    store = Store(Home(tmp_path / "home"))

    def make(folder: Path) -> dict[str, str]:
        (folder / "tiny-Q8_0.gguf").write_bytes(llama())
        return {}

    step = Step("llama-quantize", "image sha256:1", ("llama-quantize", "{in}/a.gguf", "{out}/tiny-Q8_0.gguf", "Q8_0"))
    made = store.add(
        "tiny-q8", source="hf://a/b", revision=None, converted_from="tiny", licence="mit", recipe=[step], make=make
    )
    return store, made


def test_a_manifest_keeps_recipe_and_loss(converted: tuple[Store, Model], tmp_path: Path) -> None:
    store, made = converted
    assert made.recipe[0].arguments[-1] == "Q8_0" and made.loss is None
    cost = loss((3.0, 4.0), (3.1, 4.2))
    told = keep_loss(made, cost)
    assert store.get("tiny-q8") == told
    assert told.loss == cost
    store.verify(told)

    pack(store, [told], tmp_path / "out.tar", Silent())
    (taken,) = unpack(Store(Home(tmp_path / "other")), tmp_path / "out.tar", Silent())
    assert (taken.recipe, taken.loss) == (told.recipe, told.loss)


def test_the_folder_of_a_model_is_a_source(tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, str]:
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / "model.safetensors").write_bytes(llama())
        return {}

    made = Store(Home(tmp_path / "home")).add("tiny", source="hf://a/b", revision=None, make=make)
    choice, patterns = ModelChoice(f"file://{made.folder}"), ("*.safetensors", "*.json")
    taken = pull(choice, patterns, home=Home(tmp_path / "other"), web=Web(), progress=Silent())
    assert taken.files == made.files, "without the manifest"


def test_a_manifest_of_schema_2_is_read(converted: tuple[Store, Model]) -> None:
    store, made = converted
    path = made.folder / "manifest.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**{k: v for k, v in raw.items() if k not in ("recipe", "loss")}, "schema": 2}))
    found = store.get("tiny-q8")
    assert found is not None
    assert (found.recipe, found.loss, found.licence) == ((), None, "mit")


