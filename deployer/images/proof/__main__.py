"""`python3 -m proof` and `python3 /somewhere/proof`; the second finds the package by the folder's own name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

here = Path(__file__).resolve().parent
if not __package__:
    sys.path[0] = str(here.parent)
command = importlib.import_module(f"{__package__ or here.name}.command")
if __name__ == "__main__":
    sys.exit(command.main(sys.argv[1:]))
