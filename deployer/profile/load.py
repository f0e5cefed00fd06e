"""From a YAML file to a Profile; every mistake is found before any is reported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer import resources
from deployer.errors import ProfileError, QuestionError
from deployer.profile.schema import PROFILE, Key, Section
from deployer.profile.values import (
    DiskNeed,
    Gateway,
    GpuNeed,
    Limits,
    ModelChoice,
    ModelFile,
    Pattern,
    Profile,
    Remote,
    Requirements,
    Safety,
    Serving,
)

if TYPE_CHECKING:
    from yaml.nodes import Node

_REVISIONS = ("hf", "modelscope", "oci")
_ARTIFACT = r"(oci://[^/]+/[^:@]+)(?::([^@]+))?(?:@(.+))?"  # its tag or digest is its revision
_DEEPEST = 50  # levels; the keys of a profile need five


def shipped() -> tuple[Path, ...]:
    """The shipped profile files, sorted by name."""
    return tuple(sorted(resources.folder("profiles").glob("*.yaml")))


def find(name: str) -> Path:
    """The file of a profile that is named by path or by shipped name; raises QuestionError."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise QuestionError(f"there is no profile file {name}")
        return path
    for path in shipped():
        if path.stem == name:
            return path
    import difflib

    known = [path.stem for path in shipped()]
    near = difflib.get_close_matches(name, known, 1)
    raise QuestionError(
        f"there is no profile `{name}`",
        hint=f"did you mean `{near[0]}`?" if near else f"profiles: {', '.join(known)}",
    )


def load(path: Path) -> Profile:
    """Reads the profile in `path`. Raises ProfileError with one line for each mistake in it."""
    import yaml

    problems: list[str] = []
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        text = path.read_text()
        _check_depth(text, loader, path)
        root = yaml.compose(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        what = getattr(error, "problem", None) or "cannot be read"
        raise ProfileError([f"{path}:{line}: not YAML: {what}"]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionError(f"{path} cannot be read: {error}") from error
    raw = _section(root, PROFILE, "", path, problems) if root else None
    if raw is None and not problems:
        problems.append(f"{path}:1: the file is empty (a mapping with {', '.join(PROFILE.keys)})")
    if not problems and raw:
        _check_together(raw, root, path, problems)
    if problems or raw is None:
        raise ProfileError(problems, hint="deployer profiles schema prints what is allowed")
    return _profile(path, raw)


def _check_depth(text: str, loader: Any, path: Path) -> None:
    """Raises ProfileError where YAML nests so deep that composing it would end the interpreter."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise ProfileError([f"{path}:{line}: the file: nests deeper than any profile (flatten it)"])


def _section(node: Node | None, section: Section, where: str, path: Path, problems: list[str]) -> Any:
    from yaml.nodes import MappingNode, SequenceNode

    assert node is not None
    line = node.start_mark.line + 1
    if section.many:
        if not isinstance(node, SequenceNode) or not node.value:
            problems.append(f"{path}:{line}: {where}: not a list (one entry with `- ` for each)")
            return None
        inner = Section(section.keys, section.doc)
        return [_section(item, inner, f"{where}[{n}]", path, problems) for n, item in enumerate(node.value)]
    if not isinstance(node, MappingNode):
        problems.append(f"{path}:{line}: {where or 'the file'}: not a mapping ({', '.join(section.keys)})")
        return None
    found: dict[str, Any] = {}
    meant: set[str] = set()  # by a misspelt key: they are not missing as well
    for key_node, value_node in node.value:
        name = str(key_node.value)
        key_line = key_node.start_mark.line + 1
        full = f"{where}.{name}" if where else name
        wanted = section.keys.get(name)
        if wanted is None:
            near, said = _nearest(name, section)
            meant |= near
            problems.append(f"{path}:{key_line}: {full}: unknown key ({said})")
        elif name in found:
            problems.append(f"{path}:{key_line}: {full}: given twice (once)")
        elif isinstance(wanted, Section):
            found[name] = _section(value_node, wanted, full, path, problems)
        elif not wanted.many:
            found[name] = _value(value_node, wanted, f"{path}:{key_line}: {full}", problems)
        elif isinstance(value_node, SequenceNode) and value_node.value:
            where_ = f"{path}:{key_line}: {full}"
            found[name] = tuple(_value(item, wanted, where_, problems) for item in value_node.value)
        else:
            problems.append(f"{path}:{key_line}: {full}: not a list (one entry with `- ` for each)")
    for name, wanted in section.keys.items():
        if wanted.required and name not in found and name not in meant:
            full = f"{where}.{name}" if where else name
            problems.append(f"{path}:{line}: {full}: missing ({wanted.doc})")
    return found


def _value(node: Node, key: Key, where: str, problems: list[str]) -> Any:
    from yaml.nodes import ScalarNode

    if not isinstance(node, ScalarNode) or node.tag.endswith(":null"):
        problems.append(f"{where}: no value ({key.doc})")
        return None
    try:
        return key.kind.parse(node.value)
    except ValueError as error:
        problems.append(f"{where}: `{node.value}` is not right ({error})")
        return None


def _nearest(name: str, section: Section) -> tuple[set[str], str]:
    import difflib

    near = difflib.get_close_matches(name, section.keys, 1)
    return set(near), f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(section.keys)}"


def _check_together(raw: dict[str, Any], root: Any, path: Path, problems: list[str]) -> None:
    """Mistakes that only two keys together make."""

    def line(*names: str) -> int:
        node = root
        for name in names:
            key, node = next((k, v) for k, v in node.value if k.value == name)
        return int(key.start_mark.line) + 1

    model = raw["model"]
    scheme = model["source"].partition("://")[0]
    if scheme not in _REVISIONS and "revision" in model:
        at = line("model", "revision")
        of = ", ".join(f"{name}://" for name in _REVISIONS)
        problems.append(f"{path}:{at}: model.revision: only {of} sources have one (leave it out)")
    version = re.fullmatch(_ARTIFACT, model["source"])
    if version and (version[2] or version[3]) and "revision" in model:
        at = line("model", "revision")
        problems.append(f"{path}:{at}: model.revision: the source has a tag or a digest already (leave it out)")
    if scheme in ("http", "https"):
        files = model.get("files") or []
        if len(files) > 1 or not ("#sha256=" in model["source"] or (files and files[0].get("sha256"))):
            at = line("model", "files") if files else line("model", "source")
            problems.append(
                f"{path}:{at}: model.source: one file from anywhere needs its hash (#sha256=64 digits "
                "behind it, or its one entry in files with path and sha256)"
            )
    if model["source"].startswith("pypi://"):
        files = model.get("files") or []
        if len(files) != 1 or not files[0].get("sha256"):
            at = line("model", "files") if files else line("model")
            problems.append(
                f"{path}:{at}: model.files: a wheel needs its one model file with path and sha256"
            )
    serving, door = raw.get("serving", {}), raw.get("gateway", {})
    if not serving.get("address", "127.").startswith("127.") and serving.get("api_key") == "none":
        at = line("serving", "api_key")
        problems.append(f"{path}:{at}: serving.api_key: whoever reaches serving.address could use it (required)")
    if ("certificate" in door) != ("certificate_key" in door):
        problems.append(f"{path}:{line('gateway')}: gateway: certificate and certificate_key go together (name both)")
    outside = [name for name in ("remote", "safety") if (door.get(name) or {}).get("url")]
    if outside and door.get("offline") == "true":
        at = line("gateway", outside[0])
        problems.append(f"{path}:{at}: gateway.{outside[0]}: it leaves this host (leave it out, or offline)")
    if "named" in (door.get("remote") or {}).get("when", ()) and not door["remote"].get("name"):
        problems.append(f"{path}:{line('gateway', 'remote')}: gateway.remote.name: missing (`named` needs one)")
    gpu = raw["requirements"].get("gpu")
    if raw["engine"] == "transformers" and raw.get("serving", {}).get("cache") == "8-bit":
        at = line("serving", "cache")
        problems.append(f"{path}:{at}: serving.cache: transformers keeps its cache in 16 bits (leave it out)")
    if raw["engine"] == "transformers" and model.get("kind") == "embedding":
        at = line("model", "kind")
        problems.append(f"{path}:{at}: model.kind: transformers gives no embeddings (llamacpp does, vllm with GPUs)")
    if raw["engine"] == "vllm" and not gpu:
        problems.append(f"{path}:{line('engine')}: engine: vllm needs a GPU (name it in requirements.gpu)")
    if gpu and gpu.get("free_vram") and gpu.get("vram") and gpu["free_vram"] > gpu["vram"]:
        at = line("requirements", "gpu", "free_vram")
        problems.append(f"{path}:{at}: requirements.gpu.free_vram: more than vram (at most {gpu['vram']} B)")
    replicas = (raw.get("serving") or {}).get("replicas", 1)
    if gpu and gpu.get("count", 1) % replicas:
        count = gpu.get("count", 1)
        problems.append(f"{path}:{line('serving')}: serving.replicas: {count} GPUs are not divided by {replicas}")


def _profile(path: Path, raw: dict[str, Any]) -> Profile:
    wanted = dict(raw["requirements"])
    gpu = wanted.pop("gpu", None)
    disk = wanted.pop("disk", {})
    model = dict(raw["model"])
    files = tuple(ModelFile(**entry) for entry in model.pop("files", ()))
    if found := re.fullmatch(_ARTIFACT, model["source"]):
        model["source"] = found[1]
        if version := found[3] or found[2]:
            model["revision"] = version
    return Profile(
        name=path.stem,
        path=path,
        description=raw["description"],
        rank=raw["rank"],
        requirements=Requirements(
            **wanted, gpu=None if gpu is None else GpuNeed(**gpu), disk=DiskNeed(**disk)
        ),
        model=ModelChoice(**model, files=files),
        engine=raw["engine"],
        image=raw.get("image", raw["engine"]),
        variant=raw["variant"],
        runtime=raw.get("runtime"),
        serving=Serving(**raw.get("serving", {})),
        gateway=_gateway(raw.get("gateway", {})),
        limits=Limits(**raw.get("limits", {})),
    )


def _gateway(raw: dict[str, Any]) -> Gateway:
    made = dict(raw)
    if safety := raw.get("safety"):
        patterns = tuple(Pattern(**one) for one in safety.get("patterns", ()))
        made["safety"] = Safety(**{**safety, "patterns": patterns})
    if remote := raw.get("remote"):
        made["remote"] = Remote(**remote)
    return Gateway(**made)
