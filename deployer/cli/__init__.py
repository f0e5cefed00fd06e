"""The command line: one module per command, loaded when it is called; COMMANDS is the list."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import click

from deployer._version import __version__

# name: (module, what `deployer --help` says of it), in the order people read
COMMANDS = {
    "check": ("deployer.cli.check", "Audit this machine against a profile."),
    "up": ("deployer.cli.up", "Bring up a private model that answers."),
    "down": ("deployer.cli.down", "Stop a deployment."),
    "upgrade": ("deployer.cli.upgrade", "Bring the next generation up beside what runs, and switch."),
    "rollback": ("deployer.cli.rollback", "Go back to the generation before."),
    "history": ("deployer.cli.history", "List generations, and what changed."),
    "start": ("deployer.cli.start", "Bring back what was accepted, as it was."),
    "status": ("deployer.cli.status", "Say what runs, where and how fast."),
    "watch": ("deployer.cli.watch", "Look after a deployment, and start it again when that helps."),
    "inspect": ("deployer.cli.inspect", "Show what a deployment is, to the last limit."),
    "service": ("deployer.cli.service", "Let a deployment start with the machine."),
    "logs": ("deployer.cli.logs", "Show what an engine says."),
    "chat": ("deployer.cli.chat", "Talk to a deployment."),
    "keys": ("deployer.cli.keys", "Give and take back API keys."),
    "pull": ("deployer.cli.pull", "Fetch and verify a model."),
    "models": ("deployer.cli.models", "List, verify, remove, export and import models."),
    "build": ("deployer.cli.build", "Build container images."),
    "images": ("deployer.cli.images", "Look into images, ours and others; list and remove ours."),
    "compat": ("deployer.cli.compat", "Say which CUDA, torch and images run on which driver and GPU."),
    "fit": ("deployer.cli.fit", "Say what a model needs, and whether it runs here."),
    "export": ("deployer.cli.export", "Print a dashboard for Grafana."),
    "profiles": ("deployer.cli.profiles", "List, show and validate profiles."),
}


class Commands(click.Group):
    """Imports a command's module when it is used, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        import gc
        import importlib

        gc.disable()  # imports make much that lives and no garbage; looking for it takes a tenth of their time
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        gc.enable()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            ctx.fail(f"no command `{args[0]}`" + (f"; did you mean `{near[0]}`?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `deployer check`, then `deployer up`.",
)
@click.option(
    "--home",
    metavar="DIRECTORY",  # no click.Path: it would wait for a dead network disk
    envvar="DEPLOYER_HOME",
    help="Folder for models, engines and keys.  [default: ~/.local/share/deployer]",
)
@click.version_option(__version__, message="deployer %(version)s")
@click.pass_context
def app(ctx: click.Context, home: str | None) -> None:
    """From a bare machine to a private, verified model that answers, in one command."""
    ctx.obj = home
    if ctx.invoked_subcommand in ("build", "up", "pull"):
        from deployer.cli import settings

        ctx.default_map = settings.defaults()


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line; the only place that turns errors into text and exit codes."""
    asked = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends us wants no build to go on alone
    try:
        code = app.main(asked, standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted: nothing half-made stays; the same command goes on from here", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        from deployer.errors import DeployerError

        if not isinstance(error, DeployerError):
            raise
        from deployer.cli.show import show_error

        show_error(error, as_json="--json" in asked)
        sys.exit(error.exit_code)
    _end(code if isinstance(code, int) else 0)


def _end(code: int) -> NoReturn:
    """Ends at once: taking the interpreter down takes as long as starting it, and a probe may still hang."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # `deployer … | head`
        code = 1
    os._exit(code)
