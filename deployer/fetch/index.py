"""Which Python package index this machine uses."""

from __future__ import annotations

import subprocess
import sys

from deployer.errors import SourceUnreachable


def default_index() -> str:
    """The index that pip uses here: its configuration, else its built-in default."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if asked.returncode == 0 and asked.stdout.strip():
        return asked.stdout.strip()
    try:
        from pip._internal.models.index import PyPI
    except ImportError as error:
        raise SourceUnreachable(
            "no package index is known: this Python has no pip", hint="name one with --index-url URL"
        ) from error
    return str(PyPI.simple_url)
