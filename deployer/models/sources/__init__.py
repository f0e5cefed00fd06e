"""The kinds of places that models come from; SOURCES is the list."""

from __future__ import annotations

from deployer.errors import QuestionError
from deployer.fetch import Web
from deployer.models.sources import folder, hub, link, modelscope, oci, wheel
from deployer.models.sources.base import Listing as Listing
from deployer.models.sources.base import RemoteFile as RemoteFile
from deployer.models.sources.base import Source
from deployer.profile import ModelChoice

SOURCES: tuple[Source, ...] = (hub.SOURCE, modelscope.SOURCE, oci.SOURCE, link.SOURCE, wheel.SOURCE, folder.SOURCE)


def source_of(address: str) -> Source:
    """The source that answers for `address`; raises QuestionError with the known schemes."""
    scheme = address.partition("://")[0]
    for source in SOURCES:
        if source.scheme in (scheme, f"{scheme}s"):  # http:// too: what comes is held to a hash
            return source
    known = ", ".join(f"{s.scheme}://" for s in SOURCES)
    raise QuestionError(f"no source is called {scheme}://", hint=f"sources: {known}")


def source_url(choice: ModelChoice, web: Web) -> str | None:
    """An address that must answer before `choice` can be pulled; None when there is no single one."""
    return source_of(choice.source).url(choice.source, web)
