"""Makes a model of another one, in another format, and measures what that cost."""

from __future__ import annotations

import shutil
from pathlib import Path

from deployer import images
from deployer.engines import engine
from deployer.errors import LaunchError, ModelError, NoSpace
from deployer.fetch import Web, free_bytes
from deployer.frozen import dataclass
from deployer.home import Home
from deployer.images import builder
from deployer.images.bake import BuildSettings
from deployer.models import convert as how
from deployer.models.manifest import Loss, Model, Perplexity, Step, keep_loss
from deployer.models.store import Store
from deployer.progress import Progress
from deployer.quantity import format_size
from deployer.runtimes import Once, Runtime, provision


@dataclass(frozen=True)
class Workshop:
    """What conversions need: where models are, what runs programs, and how engines are made that are not there."""

    home: Home
    web: Web
    build: BuildSettings
    runtime: Runtime
    progress: Progress

    def program(self, name: str) -> str:
        """The engine of this name, made if need be: an image that is there already is taken before one for CPUs."""
        if self.runtime.name != "docker":
            return str(provision.provision(name, "cpu", home=self.home, web=self.web, progress=self.progress))
        targets = [images.target(name, variant.name, self.build.base) for variant in images.load(name).variants]
        found = next((one for one in targets if self.runtime.has_image(one.reference)), None)
        if found is None:
            found = images.target(name, "cpu", self.build.base)
            builder.build((found,), self.build, home=self.home, web=self.web, progress=self.progress)
        return found.reference


def convert(origin: Model, wanted: how.Target, shop: Workshop, *, program: str | None = None) -> Model:
    """`origin` as `wanted`, in the store: made now, or found there. `program` is the transformers engine, if known.

    Raises QuestionError when nothing makes it, NoSpace before anything runs, LaunchError when a program fails.
    """
    store, id_ = Store(shop.home), how.identity(origin.id, wanted)
    with store.writing(id_, waiting=shop.progress.say):
        if there := store.get(id_):
            return there
        tasks = how.ways(origin, wanted)
        _room(origin, wanted, tasks, shop.home)
        steps: list[Step] = []

        def make(folder: Path) -> dict[str, str]:
            for left in folder.iterdir():  # of a conversion that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            with shop.home.scratch("convert") as scratch:
                (between := scratch / "between").mkdir()
                paths = {"in": origin.folder, "out": folder, "between": between}
                for task in tasks:
                    ran = program if program and task.engine == "transformers" else shop.program(task.engine)
                    used = shop.runtime.named(ran)
                    if "{convert}" in " ".join(task.arguments):
                        paths["convert"] = _converter(shop, scratch)
                        used += f" with {shop.runtime.named(shop.program('llamacpp'))}"
                    _run(task, ran, paths, shop, id_)
                    steps.append(Step(task.tool, used, task.words))
            return {}

        return store.add(
            id_, source=origin.source, revision=origin.revision, converted_from=origin.id, licence=origin.licence,
            allowed=origin.allowed, recipe=steps, make=make,
        )  # fmt: skip


def measure(origin: Model, result: Model, shop: Workshop) -> Model:
    """`result` with its loss against `origin` in its manifest: measured now, or found there."""
    store = Store(shop.home)
    with store.writing(result.id, waiting=shop.progress.say):
        there = store.get(result.id) or result
        if there.loss and there.loss.text == how.text_hash():
            return there
        before = _known(origin, shop) or _perplexity(origin, shop, result.id)
        after = _perplexity(there, shop, result.id)
        return keep_loss(there, Loss(how.text_hash(), how.WINDOW, before, after))


def _known(model: Model, shop: Workshop) -> Perplexity | None:
    """The model's perplexity where another conversion has measured it by the same engine."""
    task = how.measure(model.format, how.weights(model))
    ran = shop.runtime.named(shop.program(task.engine))
    for one in Store(shop.home).all():
        if one.loss is None or one.loss.text != how.text_hash() or one.loss.window != how.WINDOW:
            continue
        found = one.loss.result if one.id == model.id else one.loss.original
        if model.id in (one.id, one.converted_from) and found.engine == ran:
            return found
    return None


def _perplexity(model: Model, shop: Workshop, purpose: str) -> Perplexity:
    task = how.measure(model.format, how.weights(model))
    shop.progress.say(f"perplexity of {model.id}")
    program = shop.program(task.engine)
    said = _run(task, program, {"in": model.folder, "text": how.TEXT}, shop, purpose)
    return how.measured(said, task.tool, shop.runtime.named(program))


def _run(task: how.Task, program: str, paths: dict[str, Path], shop: Workshop, purpose: str) -> str:
    given = {**paths, **({"script": task.script} if task.script else {})}
    used = {key: path for key, path in given.items() if any(f"{{{key}}}" in word for word in task.arguments)}
    writable = tuple(key for key in used if key in ("out", "between"))
    by = engine(task.engine)
    job = Once(program, by.folder, task.arguments, used, writable, purpose, by.environment)
    return shop.runtime.once(job, shop.progress)


def _converter(shop: Workshop, scratch: Path) -> Path:
    """llama.cpp's converter from safetensors, which needs the other engine's torch."""
    found = shop.runtime.engine_folder(shop.program("llamacpp"), engine("llamacpp").folder, "convert", scratch)
    if not (found / "convert_hf_to_gguf.py").exists():
        raise LaunchError(f"{found} has no convert_hf_to_gguf.py", hint="deployer build llamacpp:cpu")
    return found


def _room(origin: Model, wanted: how.Target, tasks: tuple[how.Task, ...], home: Home) -> None:
    """Raises NoSpace when what is written, with what lies between two programs, may not fit."""
    from deployer.models import metadata

    try:
        weights = sum(tensor.numbers for tensor in metadata.describe(origin.weights).tensors)
    except ModelError:  # a design that sizing does not know; its files are all there is to go by
        weights = origin.size
    need = int(weights * (wanted.weight + (2.0 if len(tasks) > 1 else 0.0)))
    if need > free_bytes(home.models):
        raise NoSpace(
            f"the conversion may write {format_size(need)}, {format_size(free_bytes(home.models))} are free",
            hint=f"make room on the file system of {home.models}, or see what `deployer models gc` removes",
        )
