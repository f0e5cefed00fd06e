"""`deployer service`: deployments that come back after a reboot."""

from __future__ import annotations

import getpass

import click

from deployer.cli import show
from deployer.cli.place import Place, place
from deployer.cli.which import which
from deployer.errors import Refused, RuntimeUnavailable
from deployer.plan import Record
from deployer.runtimes import service


@click.group("service")
def command() -> None:
    """Bring deployments back after a reboot: by systemd, or by the container engine where there is none."""


@command.command("install")
@click.argument("name", required=False)
@click.option("--dry-run", is_flag=True, help="Print the unit for systemd and change nothing.")
@click.pass_context
def install(ctx: click.Context, name: str | None, dry_run: bool) -> None:
    """Let deployment NAME, or the only one there is, start with the machine.

    As root it becomes a unit of the system, else one of your own systemd; a second one runs `deployer watch`.
    """
    here = place(ctx)
    record = which(here, name)
    unit = here.service(record.name, record.runtime)
    if dry_run:
        click.echo(f"# {unit.path}\n{unit.text()}\n# {unit.watch}\n{unit.watch_text()}", nl=False)
        return
    if service.booted():
        unit.install()
        click.echo(f"{record.name} starts with the machine, and is watched: {unit.path}, {unit.watch.name}")
        if unit.own and not service.lingers(getpass.getuser()):
            click.echo("until you log in it waits; from the boot on: sudo loginctl enable-linger $USER", err=True)
        return
    _by_engine(here, record)
    click.echo(f"{record.name} comes back with the container engine: there is no systemd here, so Docker restarts it")
    click.echo("that the engine itself starts with the machine is up to this machine's init", err=True)


@command.command("remove")
@click.argument("name", required=False)
@click.pass_context
def remove(ctx: click.Context, name: str | None) -> None:
    """Do not start deployment NAME with the machine any more. What runs goes on."""
    here = place(ctx)
    name = name or which(here, None).name
    unit = here.service(name, None)
    found = unit.remove()
    if service.kept(here.home, name):
        service.mark(here.home, name, on=False)
        found = True
        try:
            here.runtime("docker").keep(name)
        except RuntimeUnavailable:
            pass  # without an engine nothing is brought back
    click.echo(f"{name} does not start with the machine" + ("" if found else ", and did not"))


@command.command("status")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def status(ctx: click.Context, name: str | None, as_json: bool) -> int:
    """Say whether deployment NAME starts with the machine, and by what. Exits with 1 when it does not."""
    here = place(ctx)
    record = which(here, name)
    unit = here.service(record.name, record.runtime)
    by = "systemd" if unit.path.exists() else "docker" if service.kept(here.home, record.name) else None
    said = unit.state() if by == "systemd" and service.booted() else {}
    if as_json:
        show.show_json({"name": record.name, "by": by, "unit": str(unit.path) if by == "systemd" else None, **said})
    elif by == "systemd":
        told = ", ".join(said.values()) or "systemd does not run"
        click.echo(f"{record.name} starts with the machine: {unit.path} ({told})")
    elif by:
        click.echo(f"{record.name} comes back with the container engine, which restarts it")
    else:
        click.echo(f"{record.name} does not start with the machine: deployer service install {record.name}")
    return 0 if by and said.get("enabled", "enabled") == "enabled" else 1


def _by_engine(here: Place, record: Record) -> None:
    if record.runtime != "docker":
        line = here.service(record.name, record.runtime).start
        raise Refused(
            "there is no systemd here, and the embedded runtime does not start with the machine",
            hint=f"have cron do it: (crontab -l; echo '@reboot {line}') | crontab -",
        )
    service.mark(here.home, record.name, on=True)
    try:
        here.runtime("docker").keep(record.name)
    except RuntimeUnavailable:
        service.mark(here.home, record.name, on=False)
        raise
