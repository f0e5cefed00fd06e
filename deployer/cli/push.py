"""`deployer models push`: a model of the store into a container registry."""

from __future__ import annotations

import click

from deployer.cli import show
from deployer.cli.place import place
from deployer.errors import QuestionError
from deployer.fetch.registry import parse
from deployer.models import Store
from deployer.quantity import format_size


@click.command("push")
@click.argument("name", metavar="MODEL")
@click.argument("address", metavar="oci://REGISTRY/NAME[:TAG]")
@click.option("--ca-cert", type=click.Path(exists=True, dir_okay=False), help="Certificates to trust.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def command(ctx: click.Context, name: str, address: str, ca_cert: str | None, as_json: bool) -> None:
    """Write MODEL into a container registry, one layer for each file, and print its address there.

    What the registry has already is not sent again. Who you are there is what `docker login` noted. ORAS and tools
    for ModelPack (CNCF) artifacts can pull it too.
    """
    from deployer.cli.models import _find  # which has this command in its group
    from deployer.models.push import push

    here, screen, to = place(ctx, ca_cert=ca_cert), show.Screen(), parse(address)
    if to.version and ":" in to.version:
        raise QuestionError(f"{address} names a digest", hint=f"name a tag: {to.at('v1')}")
    model = _find(Store(here.home), name)
    digest = push(model, to, web=here.web, progress=screen)
    if as_json:
        show.show_json({"id": model.id, "address": to.at(digest), "digest": digest, "bytes": model.size})
    else:
        screen.say(f"{model.id} is there: {format_size(model.size)}, as {to.at(to.version or 'latest')}")
        click.echo(to.at(digest))
