"""What brings a deployment back after a reboot: a unit of systemd, or, without it, the container engine itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

from deployer.errors import LaunchError
from deployer.frozen import dataclass
from deployer.home import Home, write_whole

SYSTEM = Path("/etc/systemd/system")
_BOOTED = Path("/run/systemd/system")  # sd_booted(3)
_LINGER = Path("/var/lib/systemd/linger")
_MARK = "restart"


@dataclass(frozen=True)
class Service:
    """The deployment `name` as a unit of systemd, in `folder`.

    `command` is how `deployer` is called, with its home. `own` is whether it is this user's systemd and not the
    system's. `engine` is the unit that must run before, None where there is none to wait for; `address` is where the
    container engine listens, None where it is the usual place, or there is none.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    own: bool
    engine: str | None = None
    address: str | None = None

    @property
    def unit(self) -> str:
        return f"deployer-{self.name}.service"

    @property
    def path(self) -> Path:
        return self.folder / self.unit

    @property
    def start(self) -> str:
        """The command line of ExecStart."""
        return _line((*self.command, "start", self.name))

    def text(self) -> str:
        """The file: it starts what was accepted, which needs no network, and stops it so that it can come back."""
        after = ["network.target", "nvidia-persistenced.service", "nvidia-fabricmanager.service"]
        after += ["nvidia-cdi-refresh.service", *([self.engine] if self.engine else [])]
        lines = ["[Unit]", f"Description=deployer: the model {_plain(self.name)}", f"After={' '.join(after)}"]
        if self.engine:  # when the engine is restarted, its containers have ended: then this is, too
            lines += [f"Wants={self.engine}", f"PartOf={self.engine}"]
        lines += ["", "[Service]", "Type=oneshot", "RemainAfterExit=yes", "WorkingDirectory=/", "UMask=0077"]
        if self.address:
            lines.append(f"Environment={_word(f'DOCKER_HOST={self.address}')}")
        lines += [f"ExecStart={self.start}", f"ExecStop={_line((*self.command, 'down', '--keep', self.name))}"]
        lines += ["TimeoutStartSec=infinity", "TimeoutStopSec=90"]  # `start` itself gives up when nothing moves
        lines += ["", "[Install]", f"WantedBy={'default' if self.own else 'multi-user'}.target", ""]
        return "\n".join(lines)

    @property
    def watch(self) -> Path:
        """The file of the unit that looks after it."""
        return self.folder / f"deployer-{self.name}-watch.service"

    def watch_text(self) -> str:
        """The file: `deployer watch`, from when it is up until it is stopped.

        What it starts again goes on when the watch itself ends.
        """
        lines = ["[Unit]", f"Description=deployer: looks after the model {_plain(self.name)}"]
        lines += [f"BindsTo={self.unit}", f"After={self.unit}", "", "[Service]", "Type=exec", "KillMode=process"]
        lines += ["WorkingDirectory=/", "UMask=0077", "Restart=on-failure", "RestartSec=5"]
        if self.address:
            lines.append(f"Environment={_word(f'DOCKER_HOST={self.address}')}")
        lines += [f"ExecStart={_line((*self.command, 'watch', '--json', self.name))}"]
        return "\n".join([*lines, "", "[Install]", f"WantedBy={self.unit}", ""])

    def installed(self, home: Home) -> bool:
        """Whether anything brings it back: this unit, or the container engine."""
        return self.path.exists() or kept(home, self.name)

    def install(self) -> None:
        """Writes the unit and turns it on; what runs already goes on. Raises LaunchError."""
        text = self.text()
        if self.path.exists() and self.start not in self.path.read_text():
            raise LaunchError(
                f"{self.path} belongs to another home", hint=f"look into it; then: sudo rm {self.path}"
            )
        try:
            write_whole(self.path, text.encode(), 0o644)
            write_whole(self.watch, self.watch_text().encode(), 0o644)
        except OSError as error:
            raise LaunchError(f"{self.path} cannot be written: {error.strerror}") from error
        try:
            self.systemctl("daemon-reload")
            self.systemctl("enable", self.watch.name)
            self.systemctl("enable", "--now", self.unit)
        except LaunchError:
            self.path.unlink()  # else it would seem to be installed
            self.watch.unlink()
            raise

    def remove(self) -> bool:
        """Turns it off and takes the file away; what runs goes on. False when there is none."""
        if not self.path.exists():
            return False
        if booted():
            self.systemctl("disable", "--now", self.watch.name)
            self.systemctl("disable", self.unit)
        self.path.unlink()
        self.watch.unlink(missing_ok=True)
        if booted():
            self.systemctl("daemon-reload")
        return True

    def state(self) -> dict[str, str]:
        """What systemd says: whether the unit starts with the machine, and how its last start went."""
        said = {}
        for question in ("is-enabled", "is-active"):
            done = subprocess.run(self._words(question, self.unit), capture_output=True, text=True)
            said[question.removeprefix("is-")] = done.stdout.strip() or done.stderr.strip()
        return said

    def systemctl(self, *words: str) -> None:
        try:
            done = subprocess.run(self._words(*words), capture_output=True, text=True)
        except OSError as error:
            raise LaunchError(f"systemctl cannot be called: {error.strerror}") from error
        if done.returncode:
            raise LaunchError(
                f"`{' '.join(self._words(*words))}` failed",
                hint=f"journalctl {'--user ' if self.own else ''}-u {self.unit}",
                evidence=done.stderr.strip().splitlines()[-3:],
            )

    def _words(self, *words: str) -> list[str]:
        return ["systemctl", *(["--user"] if self.own else []), *words]


def booted() -> bool:
    """Whether systemd runs this machine."""
    return _BOOTED.is_dir()


def lingers(user: str) -> bool:
    """Whether this user's units start with the machine, and not only when they log in."""
    return (_LINGER / user).exists()


def kept(home: Home, unit: str) -> bool:
    """Whether the container engine is to bring the unit back by itself."""
    return (home.deployment(unit) / _MARK).exists()


def mark(home: Home, unit: str, *, on: bool) -> None:
    """Notes whether it is to; every start of the unit goes by it."""
    path = home.deployment(unit) / _MARK
    if on:
        write_whole(path, b"unless-stopped\n", 0o600)
    else:
        path.unlink(missing_ok=True)


def engine_unit(address: str, *, own: bool) -> str | None:
    """The unit of the container engine at `address`, where this systemd has it: a user's knows none of the system's."""
    if own == ("/run/user/" in address) and address.endswith("/docker.sock"):
        return "docker.service"
    return None


def _line(words: tuple[str, ...]) -> str:
    return " ".join(_word(word) for word in words)


def _word(word: str) -> str:
    """One word as systemd.service(5) reads it."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if any(letter in word for letter in " \t'\";") else word


def _plain(text: str) -> str:
    return text.replace("%", "%%")
