"""How a model becomes one in another format: what can become what, by which programs. `plan.conversion` runs them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from pathlib import Path, PurePath

from deployer import images, resources
from deployer.errors import ModelError, QuestionError
from deployer.frozen import dataclass
from deployer.models.manifest import Model, Perplexity, parts_of, quantization_in
from deployer.models.store import CONVERTER, converted_id

QUANTIZER = resources.PACKAGE / "models" / "quantize_safetensors.py"
PERPLEXITY = resources.PACKAGE / "models" / "perplexity.py"
TEXT = resources.PACKAGE / "models" / "opticks.txt"
# Newton's Opticks, 4th edition of 1730, the beginning of Query 31; in the public domain. Typed by the Online
# Distributed Proofreading Team; from the copy in libbacktrace's tests.
WINDOW = 256  # tokens; the second half of each window is scored
_PLAIN = {"F32": "f32", "F16": "f16", "BF16": "bf16"}  # what the converter itself writes
# Of llama-quantize's types those that need no importance matrix.
_BLOCKS = """Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K_L Q3_K_M Q3_K_S IQ3_M IQ3_S
Q2_K TQ2_0 TQ1_0"""
GGUF = (*_PLAIN, *_BLOCKS.split())
BITS = {"int8": "8", "int4": "4"}
_SIXTEEN = ("F32", "F16", "BF16", "FLOAT32", "FLOAT16", "BFLOAT16")
# Bytes of a weight, at most: 4-bit and 8-bit safetensors keep embeddings in 16 bits, GGUF types in 8.5 at most.
_BYTES = {"safetensors": 2.0, "int8": 2.0, "int4": 2.0, "F32": 4.0, "F16": 2.0, "BF16": 2.0}


@dataclass(frozen=True)
class Target:
    """What is wanted: `safetensors`, `gguf` of a type, or safetensors with weights in 8 or 4 bits."""

    word: str

    @property
    def gguf(self) -> str | None:
        """The type of GGUF weights, as `Q4_K_M`; None for safetensors."""
        return self.word.removeprefix("gguf:") if self.word.startswith("gguf:") else None

    @property
    def weight(self) -> float:
        """Bytes of one weight in the result, at most."""
        return _BYTES.get(self.gguf or self.word, 1.1)


@dataclass(frozen=True)
class Task:
    """One program of an engine, and what it is told. `{in}`, `{out}`, `{script}` and their like stand for paths."""

    engine: str
    arguments: tuple[str, ...]
    script: Path | None = None

    @property
    def tool(self) -> str:
        """The program, or the script that Python runs, as people know it."""
        if self.script:
            return self.script.name
        return Path(self.arguments[1 if self.arguments[0] == "python" else 0]).name

    @property
    def words(self) -> tuple[str, ...]:
        """What the tool is told."""
        return self.arguments[2 if self.arguments[0] == "python" else 1 :]


def target(word: str) -> Target:
    """The format that a person asks for. Raises QuestionError with all that there are."""
    lower = word.lower()
    if lower in ("safetensors", *BITS):
        return Target(lower)
    kind = lower.removeprefix("gguf").removeprefix(":").upper()
    if lower.startswith("gguf:") and kind in GGUF:
        return Target(f"gguf:{kind}")
    raise QuestionError(
        f"{word} is no format that models are converted to",
        hint=f"safetensors, {', '.join(BITS)}, or gguf: with one of {' '.join(GGUF)}",
    )


def ways(origin: Model, wanted: Target) -> tuple[Task, ...]:
    """The programs that make `wanted` of `origin`, in order. Raises QuestionError when nothing does, with what does."""
    kept = (origin.quantization or "").upper()
    if origin.format == "gguf":
        if wanted.gguf and kept in _SIXTEEN:
            return (_quantize(f"{{in}}/{weights(origin)}", origin, wanted.gguf),)
        if wanted.word == "safetensors":
            return (_script(CONVERTER, f"{{in}}/{weights(origin)}", "{out}"),)
        raise QuestionError(
            f"{origin.id} is GGUF in {kept or 'a quantization that its name does not tell'}, and nothing makes "
            f"{wanted.word} of that in one step",
            hint=f"deployer models convert {origin.id} --to safetensors, then convert the result: losses add up",
        )
    if origin.format != "safetensors":
        raise QuestionError(f"{origin.id} is in {origin.format}", hint="safetensors and GGUF can be converted")
    if wanted.word == "safetensors":
        raise QuestionError(f"{origin.id} is in safetensors already", hint="nothing is to be done")
    if kept and kept not in _SIXTEEN:  # old config.json files do not tell; they are of weights as they were trained
        raise QuestionError(
            f"the weights of {origin.id} are in {origin.quantization}, not in 16 or 32 bits",
            hint="convert the model that it was made of: deployer models list",
        )
    if wanted.word in BITS:
        return (_script(QUANTIZER, "{in}", "{out}", BITS[wanted.word]),)
    assert wanted.gguf
    made = _PLAIN.get(wanted.gguf)
    dest = f"{{out}}/{filename(origin, wanted.gguf)}" if made else "{between}/16-bit.gguf"
    words = ("python", "{convert}/convert_hf_to_gguf.py", "{in}", "--outtype", made or "auto", "--outfile", dest)
    first = Task("transformers", (*words, "--model-name", name(origin)))
    return (first,) if made else (first, _quantize("{between}/16-bit.gguf", origin, wanted.gguf))


def measure(format_: str, weights: str) -> Task:
    """The program that measures the perplexity of `weights`, which lie in `{in}`, on the text."""
    if format_ == "gguf":
        words = ("-m", f"{{in}}/{weights}", "-f", "{text}", "-c", str(WINDOW), "-b", str(2 * WINDOW), "--no-warmup")
        return Task("llamacpp", ("llama-perplexity", *words))
    return _script(PERPLEXITY, "{in}", "{text}", str(WINDOW))


def measured(said: str, tool: str, engine: str) -> Perplexity:
    """What a program of `measure` said. Raises ModelError when it said no number."""
    if found := re.findall(r"^PERPLEXITY (\{.*\})$", said, re.MULTILINE):
        raw = json.loads(found[-1])
        windows, error = tuple(raw["windows"]), float(raw["error"])
    else:
        # `[3]26.0734,` is the perplexity of the first three windows together
        so_far = {int(n): float(value) for n, value in re.findall(r"\[(\d+)\](\d+\.\d+),", said)}
        final = re.search(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)", said)
        if not so_far or not final or sorted(so_far) != list(range(1, len(so_far) + 1)):
            raise ModelError(f"{tool} told no perplexity", evidence=said.strip().splitlines()[-5:])
        sums = [0.0, *(n * math.log(so_far[n]) for n in sorted(so_far))]
        windows = tuple(round(after - before, 6) for before, after in itertools.pairwise(sums))
        error = float(final[2]) / float(final[1])
    return Perplexity(windows, error, tool, engine)


def text_hash() -> str:
    """SHA-256 of the text that perplexity is measured on."""
    return hashlib.sha256(TEXT.read_bytes()).hexdigest()


def identity(origin: str, wanted: Target) -> str:
    """The name in the store of `origin` converted to `wanted` by the programs as they are now."""
    if wanted.word == "safetensors":
        return converted_id(origin)
    pins = QUANTIZER.read_bytes() if wanted.word in BITS else images.load("llamacpp").sources[0].sha256.encode()
    kept = re.sub(r"[^a-z0-9]+", "-", wanted.word.removeprefix("gguf:").lower())
    return f"{origin}-{kept}-{hashlib.sha256(pins).hexdigest()[:8]}"


def name(origin: Model) -> str:
    """What people call the model, without its quantization: of its GGUF file, else of its source."""
    if origin.format == "gguf":
        stem = PurePath(parts_of(weights(origin))).stem
    else:
        stem = origin.source.rstrip("/").rsplit("/", 1)[-1].partition("==")[0].removesuffix(".gguf")
    kept = quantization_in(stem)
    return re.sub(rf"[-._]{kept}$", "", stem, flags=re.IGNORECASE) if kept else stem


def filename(origin: Model, kind: str) -> str:
    """The name of a GGUF file with weights in `kind`."""
    return f"{name(origin)}-{kind}.gguf"


def weights(model: Model) -> str:
    """What is given to a program: the GGUF file's path in the model's folder, or `.` for the folder."""
    return str(model.weights.relative_to(model.folder))


def _script(path: Path, *arguments: str) -> Task:
    return Task("transformers", ("python", "{script}", *arguments), path)


def _quantize(source: str, origin: Model, kind: str) -> Task:
    return Task("llamacpp", ("llama-quantize", source, f"{{out}}/{filename(origin, kind)}", kind))
