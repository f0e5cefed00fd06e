"""A bill of materials of an image, in CycloneDX 1.6: the Debian and Python packages that lie in it."""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployer import images
from deployer._version import __version__
from deployer.errors import BuildError, QuestionError, SourceUnreachable
from deployer.home import Home, write_whole
from deployer.images.inspect import OURS, Image, on_engine, repository
from deployer.images.look import look, python_tree
from deployer.images.target import Target
from deployer.progress import Progress

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression

    Licence = DisjunctiveLicense | LicenseExpression

HINT = "pip install 'deployer[sbom]'"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/")
_LONG = 64  # characters; a longer licence is its text, not its name


def require() -> None:
    """Raises QuestionError with the way out when the library that writes CycloneDX is not installed."""
    try:
        import cyclonedx  # noqa: F401
    except ImportError:
        raise QuestionError(
            "an SBOM is written with cyclonedx-python-lib, which is not installed", hint=HINT
        ) from None


def write(
    target: Target, reference: str, folder: Path, home: Home, progress: Progress, address: str | None = None
) -> Path:
    """Writes `<image>-<variant>.cdx.json` of `target`, which is at `reference`, into `folder`; returns the file.

    An image that is in a registry alone is pulled for it. `address` is the engine's, None for docker's own. Raises
    QuestionError without the library, and what `look` raises.
    """
    require()
    address = address or _address()
    image = on_engine(reference, address)
    if image is None:
        progress.say(f"sbom: pulling {reference}")
        _docker("pull", "--quiet", reference)
        image = on_engine(reference, address)
    if image is None:
        raise BuildError(f"{reference} is not there after its pull")
    tool = images.target("python", "3.11")

    def make() -> None:
        raise BuildError(
            f"{tool.reference} reads images, and it is not on this engine", hint="deployer build python"
        )

    python = python_tree(tool, make, address=address, home=home, progress=progress)
    facts = look(image, python, address=address)
    path = folder / f"{target.recipe.name}-{target.variant.name}.cdx.json"
    write_whole(path.absolute(), document(image, facts, target).encode())
    progress.say(f"sbom: {path}")
    return path


def document(image: Image, facts: Mapping[str, Any], target: Target | None = None) -> str:
    """The JSON text; the same image gives the same text, and its time and serial number are the image's.

    `target` is what it was built from, where that is known: its locks give the hashes. Raises QuestionError without
    the library.
    """
    require()
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output.json import JsonV1Dot6

    root = _image(image, facts)
    tool = Component(type=ComponentType.APPLICATION, name="deployer", version=__version__, bom_ref="deployer")
    components = [*_system(image, facts), *_debian(facts, _debs(target)), *_python(facts, _wheels(target))]
    bom = Bom(
        serial_number=uuid.uuid5(_NAMESPACE, image.identity),
        metadata=BomMetaData(
            component=root, tools=ToolRepository(components=[tool]), timestamp=_time(image.created)
        ),
        components=components,
    )
    bom.register_dependency(root, components)
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def built_from(image: Image) -> Target | None:
    """The target that `image` was built from, if the recipes still make just this content."""
    base = image.labels.get("org.opencontainers.image.base.name", images.ARCHIVE)
    try:
        target = images.target(image.labels.get(OURS, ""), image.labels.get("io.deployer.variant", ""), base)
    except QuestionError:
        return None
    return target if image.labels.get("io.deployer.content") == target.digest else None


def _image(image: Image, facts: Mapping[str, Any]) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    name, purl = repository(image.reference), None
    for digest in image.digests:
        if repository(digest) == name:  # only a manifest's digest names an image elsewhere
            about = {"repository_url": name, "arch": image.platform.split("/")[1]}
            purl = PackageURL("oci", None, name.rpartition("/")[2], digest.rpartition("@")[2], about)
    told = {key: value for key, value in image.labels.items() if key.startswith("io.deployer.")}
    if facts["rpm"]:
        told["deployer:incomplete"] = "rpm packages are not listed"
    return Component(
        type=ComponentType.CONTAINER,
        name=name,
        version=image.identity,
        bom_ref=image.identity,
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=image.identity.rpartition(":")[2])],
        properties=[Property(name=key, value=value) for key, value in sorted(told.items())],
    )


def _system(image: Image, facts: Mapping[str, Any]) -> Iterator[Component]:
    """The system itself, an engine that no package brought, and libraries of CUDA's that none brought."""
    from cyclonedx.model.component import Component, ComponentType

    about = facts["system"]
    if about["id"]:
        yield Component(
            type=ComponentType.OPERATING_SYSTEM,
            name=about["id"],
            version=about["version"] or None,
            description=about["name"] or None,
            bom_ref=f"system:{about['id']}",
        )
    engine = image.labels.get("io.deployer.engine")
    if engine and engine not in {one["name"] for one in facts["distributions"]}:
        version = image.labels.get("org.opencontainers.image.version")
        yield Component(
            type=ComponentType.APPLICATION, name=engine, version=version, bom_ref=f"engine:{engine}"
        )
    for one in facts["libraries"]:
        if one["owner"] is None:
            name = one["soname"] or one["path"].rpartition("/")[2]
            yield Component(
                type=ComponentType.LIBRARY, name=name, version=one["version"], bom_ref=f"file:{one['path']}"
            )


def _debian(facts: Mapping[str, Any], hashes: Mapping[tuple[str, str, str], str]) -> Iterator[Component]:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    about = facts["system"]
    system = about["id"] or "debian"
    distro = {"distro": f"{system}-{about['version']}"} if about["version"] else {}
    for one in facts["debian"]:
        name, version, architecture = one["name"], one["version"], one["architecture"]
        purl = PackageURL("deb", system, name, version, {"arch": architecture, **distro})
        yield Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            purl=purl,
            bom_ref=purl.to_string(),
            licenses=_of_debian(facts["licences"]["debian"].get(name, "")),
            hashes=_sha256(hashes.get((name, version, architecture))),
        )


def _python(facts: Mapping[str, Any], hashes: Mapping[tuple[str, str], str]) -> Iterator[Component]:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    seen = set()
    for one in facts["distributions"]:
        purl = PackageURL("pypi", None, one["name"], one["version"])
        reference = purl.to_string()
        reference += f"#{one['path']}" if reference in seen else ""  # the same in two environments
        seen.add(reference)
        yield Component(
            type=ComponentType.LIBRARY,
            name=one["name"],
            version=one["version"],
            purl=purl,
            bom_ref=reference,
            licenses=_licences(facts["licences"]["python"].get(one["path"], {})),
            hashes=_sha256(hashes.get((purl.name, one["version"]))),
            properties=[Property(name="deployer:path", value=one["path"])],
        )


def _licences(said: Mapping[str, Any]) -> tuple[Licence, ...]:
    """The expression that METADATA has for this, else its short name of a licence, else its classifiers."""
    from cyclonedx.model.license import DisjunctiveLicense

    text = said.get("License-Expression") or said.get("License", "")
    if "License-Expression" in said or (0 < len(text) <= _LONG and text.upper() != "UNKNOWN"):
        return _licence(text)
    return tuple(DisjunctiveLicense(name=name) for name in dict.fromkeys(said.get("classifiers", ())))


def _of_debian(text: str) -> tuple[Licence, ...]:
    """Debian's short name as SPDX has it; names that it does not have say too little."""
    from cyclonedx import spdx
    from cyclonedx.model.license import DisjunctiveLicense

    if match := re.fullmatch(r"([AL]?GPL|GFDL)-(\d)(?:\.(\d))?(\+?)", text):
        text = f"{match[1]}-{match[2]}.{match[3] or 0}-{'or-later' if match[4] else 'only'}"
    known = spdx.fixup_id({"Expat": "MIT", "public-domain": ""}.get(text, text))
    return (DisjunctiveLicense(id=known),) if known else ()


def _licence(text: str) -> tuple[Licence, ...]:
    from cyclonedx import spdx
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression

    if known := spdx.fixup_id(text):
        return (DisjunctiveLicense(id=known),)
    if spdx.is_expression(text):
        return (LicenseExpression(value=text),)
    return (DisjunctiveLicense(name=text),)


def _sha256(content: str | None) -> Iterable[Any]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=content)] if content else []


def _debs(target: Target | None) -> dict[tuple[str, str, str], str]:
    """SHA-256 of the .deb files, by name, version and architecture, from the locks."""
    from deployer.images import debian

    found = {}
    for above in target.line if target else ():
        for path in above.recipe.folder.glob("packages-*.tsv"):
            for package in debian.read(path).packages:
                architecture = package.file.removesuffix(".deb").rpartition("_")[2]
                found[package.name, package.version, architecture] = package.sha256
    return found


def _wheels(target: Target | None) -> dict[tuple[str, str], str]:
    """SHA-256 of wheels, by name and version, where the lock has a single file for it."""
    from deployer.images import lock

    found = {}
    for above in target.line if target else ():
        for pin in lock.parse(above.lock.read_text()) if above.lock else ():
            if len(pin.hashes) == 1:
                found[pin.name, pin.version] = pin.hashes[0].rpartition(":")[2]
    return found


def _time(created: str | None) -> datetime:
    """The image's time to the second; 1970 where it has none, as some builders leave it out."""
    text = (created or "1970-01-01T00:00:00")[:19]
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def _address() -> str:
    """Where the engine is that the docker command talks to."""
    return _docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").strip()


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise SourceUnreachable(
            f"`docker {' '.join(words)}` fails: {said}", hint="docker login REGISTRY, if it asks"
        )
    return done.stdout
