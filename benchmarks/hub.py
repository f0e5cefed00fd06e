"""A hub of one large model on 127.0.0.1, in a process of its own: `python benchmarks/hub.py GIGABYTES FILES`.

It speaks what `deployer` and Hugging Face's own client ask of the Hub. The weights are one random block over and
over, from another place in each file; the kernel sends them from memory (`sendfile`), so that neither a disk nor Python
bounds the rate. Its first line is its address. `/sent` answers how many bytes of files it sent so far, and how many it
was asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.servers import Handler, Hub, git_sha1

NAME = "acme/large"
BLOCK = (64 << 20) + 4096 + 17  # no multiple of the parts that anybody asks for
TURN = 5_000_011  # where the next file begins in it
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
    "max_position_embeddings": 131072, "torch_dtype": "bfloat16",
}  # fmt: skip


class Large:
    """A file of `size` bytes: a safetensors header, then the block from `turn` on."""

    def __init__(self, number: int, size: int, block: int, view: memoryview) -> None:
        name = f"model.layers.{number}.mlp.up_proj.weight"
        body = size - 8 - 256
        about = {name: {"dtype": "U8", "shape": [body], "data_offsets": [0, body]}}
        self.head = struct.pack("<Q", 256) + json.dumps(about).encode().ljust(256)
        self.tensor, self.size, self._block, self._turn = name, size, block, number * TURN
        digest = hashlib.sha256(self.head)
        at = len(self.head)
        while at < size:
            start, count = self.place(at, size - at)
            digest.update(view[start : start + count])
            at += count
        self.sha256 = digest.hexdigest()

    def place(self, at: int, count: int) -> tuple[int, int]:
        """Where in the block the file's byte `at` is, and how many follow there."""
        start = (at - len(self.head) + self._turn) % BLOCK
        return start, min(count, BLOCK - start)

    def send(self, handler: Handler, at: int, end: int) -> None:
        if at < len(self.head):
            piece = self.head[at : min(end, len(self.head))]
            handler.wfile.write(piece)
            handler.seen.sent += len(piece)
            at += len(piece)
        while at < end:
            start, count = self.place(at, end - at)
            sent = os.sendfile(handler.connection.fileno(), self._block, start, min(count, 4 << 20))
            handler.seen.sent += sent
            at += sent


class Mirror(Hub):
    """The hub; its large files are not in memory as such."""

    def __init__(self, total: int, files: int) -> None:
        content = random.Random(7).randbytes(BLOCK)
        block = os.memfd_create("block")
        os.write(block, content)
        os.truncate(block, BLOCK)
        size = total // files
        made = [Large(n, size, block, memoryview(content)) for n in range(files)]
        names = [f"model-{n + 1:05}-of-{files:05}.safetensors" for n in range(files)]
        where = {f.tensor: n for f, n in zip(made, names, strict=True)}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        small = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors.index.json": json.dumps(index).encode()}
        super().__init__(NAME, small, sha="5eed" + "0" * 36)
        self._asked = 0
        self._large = {self.where(n): f for n, f in zip(names, made, strict=True)}
        for n, f in zip(names, made, strict=True):
            lfs = {"sha256": f.sha256, "size": f.size, "pointerSize": 134}
            self.siblings.append({"rfilename": n, "size": f.size, "blobId": git_sha1(n.encode()), "lfs": lfs})

    def answer(self, handler: Handler) -> None:
        path = urlsplit(handler.path).path
        if path == "/sent":
            return handler.whole(200, f"{self.sent} {self._asked}".encode())
        if path.startswith(f"/api/models/{NAME}/tree/"):
            return handler.whole(200, json.dumps([_entry(s) for s in self.siblings]).encode())
        if path.startswith(f"/api/models/{NAME}/revision/") and "blobs" not in handler.path:
            return handler.whole(200, json.dumps({"id": NAME, "sha": self.sha, "siblings": self.siblings}).encode())
        if file := self._large.get(path):
            return self._give(handler, file)
        if handler.command == "HEAD" and path in self.files:
            content = self.files[path]
            return handler.start(200, self._about(git_sha1(content), len(content)))
        return super().answer(handler)

    def _about(self, etag: str, size: int) -> dict[str, str]:
        return {"ETag": f'"{etag}"', "X-Repo-Commit": self.sha, "Content-Length": str(size), "Accept-Ranges": "bytes"}

    def _give(self, handler: Handler, file: Large) -> None:
        first, end, asked = 0, file.size, handler.seen.range
        if asked:
            start, _, last = asked.removeprefix("bytes=").partition("-")
            first, end = int(start), min(int(last or file.size - 1) + 1, file.size)
        about = self._about(file.sha256, end - first)
        if asked:
            about["Content-Range"] = f"bytes {first}-{end - 1}/{file.size}"
        handler.start(206 if asked else 200, about)
        if handler.command == "GET":
            with self._turn:
                self._asked += end - first
            file.send(handler, first, end)


def _entry(sibling: dict[str, Any]) -> dict[str, Any]:
    lfs = sibling.get("lfs")
    more = {"lfs": {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}} if lfs else {}
    return {"type": "file", "path": sibling["rfilename"], "size": sibling["size"], "oid": sibling["blobId"], **more}


if __name__ == "__main__":
    with Mirror(int(float(sys.argv[1]) * 1e9), int(sys.argv[2])) as server:
        print(server.url, flush=True)
        threading.Event().wait()
