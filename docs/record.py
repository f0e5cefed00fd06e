"""Records `deployer check` and `deployer up` in a real terminal and draws what it shows as an SVG.

`python docs/record.py docs/up.svg`, or `make picture`. The commands run for real, in a home of their own;
the shared engines and verified sources of this user's home are used so that nothing is compiled again.
"""

from __future__ import annotations

import io
import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

COLUMNS, LINES = 100, 400


def main(target: str) -> None:
    home = Path("/tmp/deployer")
    home.mkdir()
    shared = Path(os.environ.get("DEPLOYER_TEST_CACHE", Path.home() / ".cache/deployer-tests"))
    for name in ("engines", "sources"):
        if (shared / name).is_dir():
            (home / name).symlink_to(shared / name)
    env = {**os.environ, "DEPLOYER_HOME": str(home), "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    try:
        for words in (["deployer", "check"], ["deployer", "up"], ["deployer", "chat", QUESTION]):
            shown = " ".join(f'"{word}"' if " " in word else word for word in words)
            console.print(Text(f"$ {shown}", style=Style(bold=True)))
            for line in screen_of(words, env):
                console.print(line)
            console.print()
    finally:
        subprocess.run(["deployer", "down", "--all"], env=env, capture_output=True)
        shutil.rmtree(home, ignore_errors=True)
    svg = console.export_svg(title="deployer")
    # no font from elsewhere: the picture must show without any request
    svg = re.sub(r"@font-face\s*{[^}]*}", "", svg)
    Path(target).write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


QUESTION = "What is the capital of France? Answer in one sentence."


def screen_of(words: list[str], env: dict[str, str]) -> list[Text]:
    """What a terminal of COLUMNS columns shows after `words` have run in it."""
    parent, child = pty.openpty()
    process = subprocess.Popen(words, env=env, stdin=child, stdout=child, stderr=child, close_fds=True)
    os.close(child)
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    while True:
        ready, _, _ = select.select([parent], [], [], 0.2)
        try:
            data = os.read(parent, 65536) if ready else b""
        except OSError:  # the terminal is closed: the command has ended
            break
        if data:
            stream.feed(data)
        elif process.poll() is not None:
            break
    process.wait()
    os.close(parent)
    last = max((y for y in range(LINES) if screen.display[y].strip()), default=-1)
    lines = []
    for y in range(last + 1):
        text = Text()
        for x in range(COLUMNS):
            cell = screen.buffer[y][x]
            colour = None if cell.fg == "default" else cell.fg.replace("brown", "yellow")
            text.append(cell.data, Style(color=colour, bold=cell.bold))
        text.rstrip()
        lines.append(text)
    return lines


if __name__ == "__main__":
    main(sys.argv[1])
