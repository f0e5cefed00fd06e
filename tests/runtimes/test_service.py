"""The unit for systemd: what is in it, and whether systemd takes it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.errors import LaunchError
from deployer.home import Home
from deployer.runtimes import service
from deployer.runtimes.service import Service, engine_unit


@pytest.fixture
def unit(tmp_path: Path) -> Service:
    """Its program is there: systemd looks for it."""
    return Service("small", ("/bin/echo", "--home", str(tmp_path)), tmp_path / "systemd", own=False)


def lines(unit: Service) -> list[str]:
    return unit.text().splitlines()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({}, id="process"),
        pytest.param({"engine": "docker.service"}, id="docker"),
        pytest.param({"own": True}, id="a user's"),
        pytest.param({"address": "unix:///a b/100%/docker.sock"}, id="an engine elsewhere"),
        pytest.param({"command": ("/bin/echo", "--home", '/a "b" $c 100%\\x;')}, id="an awkward home"),
    ],
)
def test_systemd_takes_the_unit(unit: Service, change: dict[str, object], tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    made = replace(unit, **change)
    made.folder.mkdir()
    made.path.write_text(made.text())
    others = tmp_path / "systemd" / "docker.service"
    others.write_text("[Service]\nExecStart=/bin/true\n")  # what Docker's package brings
    manager = ["--user"] if made.own else []
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{made.folder}:", "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", *manager, "--man=no", "verify", str(made.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    about = [line for line in done.stderr.splitlines() if made.unit in line]
    assert (done.returncode, about) == (0, []), done.stderr
    made.watch.write_text(made.watch_text())
    done = subprocess.run([*command[:-1], str(made.watch)], env=environment, capture_output=True, text=True)
    about = [line for line in done.stderr.splitlines() if "deployer-small" in line]
    assert (done.returncode, about) == (0, []), done.stderr

    broken = made.folder / "deployer-broken.service"
    broken.write_text(made.text().replace("Type=oneshot", "Type=once").replace("/bin/echo", "/no/such"))
    command[-1] = str(broken)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "deployer-broken.service" in done.stderr, "the same trial finds what is wrong"


def test_it_starts_after_its_engine_and_ends_with_it(unit: Service) -> None:
    assert "docker.service" not in unit.text()
    found = lines(replace(unit, engine="docker.service"))
    assert {"Wants=docker.service", "PartOf=docker.service", "WantedBy=multi-user.target"} <= set(found)
    (after,) = [line for line in found if line.startswith("After=")]
    assert {"docker.service", "nvidia-persistenced.service", "nvidia-cdi-refresh.service"} <= set(after[6:].split())
    assert "WantedBy=default.target" in lines(replace(unit, own=True))


def test_it_calls_start_and_a_down_that_keeps_the_record(unit: Service, tmp_path: Path) -> None:
    assert f"ExecStart=/bin/echo --home {tmp_path} start small" in lines(unit)
    assert f"ExecStop=/bin/echo --home {tmp_path} down --keep small" in lines(unit)
    assert {"Type=oneshot", "RemainAfterExit=yes", "TimeoutStartSec=infinity"} <= set(lines(unit))


def test_it_is_watched_while_it_is_up(unit: Service, tmp_path: Path) -> None:
    found = replace(unit, address="unix:///a/docker.sock").watch_text().splitlines()
    assert f"ExecStart=/bin/echo --home {tmp_path} watch --json small" in found
    assert {"BindsTo=deployer-small.service", "After=deployer-small.service"} <= set(found)
    assert {"Restart=on-failure", "KillMode=process", "WantedBy=deployer-small.service"} <= set(found)
    assert 'Environment=DOCKER_HOST=unix:///a/docker.sock' in found


@pytest.mark.parametrize(
    ("address", "own", "name"),
    [
        ("unix:///var/run/docker.sock", False, "docker.service"),
        ("unix:///run/user/1000/docker.sock", True, "docker.service"),
        ("unix:///var/run/docker.sock", True, None),  # a user's systemd cannot wait for a unit of the system
        ("tcp://10.0.0.1:2376", False, None),
        ("unix:///run/podman/podman.sock", False, None),
    ],
)
def test_which_unit_the_engine_is(address: str, own: bool, name: str | None) -> None:
    assert engine_unit(address, own=own) == name


@pytest.mark.skipif(service.booted(), reason="systemd runs here: it would take the unit")
def test_a_unit_of_another_home_is_not_overwritten(unit: Service) -> None:
    other = replace(unit, command=("/bin/echo", "--home", "/other"))
    unit.folder.mkdir()
    unit.path.write_text(other.text())
    with pytest.raises(LaunchError, match="belongs to another home"):
        unit.install()
    assert unit.path.read_text() == other.text()
    unit.watch.write_text(unit.watch_text())
    assert unit.remove() and not unit.path.exists() and not unit.watch.exists() and not unit.remove()


def test_a_folder_that_may_not_be_written_is_an_error_with_a_name(unit: Service, tmp_path: Path) -> None:
    (tmp_path / "systemd").write_text("a file")
    with pytest.raises(LaunchError, match="cannot be written"):
        unit.install()


def test_what_the_container_engine_is_asked_to_do_is_kept_with_the_deployment(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert not service.kept(home, "small")
    service.mark(home, "small", on=True)
    assert service.kept(home, "small") and not service.kept(home, "other")
    service.mark(home, "small", on=False)
    service.mark(home, "small", on=False)
    assert not service.kept(home, "small")


@pytest.mark.skipif(service.booted(), reason="systemd runs here: it would take the unit")
def test_a_unit_that_systemd_does_not_take_is_not_left_behind(unit: Service) -> None:
    with pytest.raises(LaunchError, match=r"systemctl.* failed|cannot be called") as caught:
        unit.install()
    assert not unit.path.exists() and not unit.watch.exists()
    assert caught.value.hint is None or "journalctl" in caught.value.hint
