"""The example of `deployer check` in the README is what the program prints on the described host."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.stage.stage import Stage, environment

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_readme_shows_what_is_printed(stage: Callable[[Any], Stage]) -> None:
    block = re.search(r"```console\n\$ deployer (check gpu-24gb)\n(.*?)```", README.read_text(), re.DOTALL)
    assert block
    env = {**environment(stage("forward-compat-geforce")), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", "deployer", *block[1].split()], env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == block[2]
