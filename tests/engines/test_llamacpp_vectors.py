"""llama.cpp as it is started for vectors: texts up to the whole context, in one batch or in pieces."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from deployer.engines import Job, engine
from deployer.models.metadata import describe
from tests.servers import wait_until
from tests.sizing import ggufs
from tests.sizing.llamacpp import PORT, SERVERS, served

CONTEXT = 2048


@pytest.mark.skipif(not SERVERS, reason="the end-to-end tests have not made llama.cpp here yet")
@pytest.mark.parametrize("pooling", [1, 3], ids=["mean", "last"])
def test_a_text_as_long_as_the_context(tmp_path: Path, pooling: int) -> None:
    keys, tensors = ggufs.plain(
        "qwen3", layers=2, h=64, heads=2, kv=1, key=32, wide=128, vocab=500, kind="F32",
        norms_={"attn_q_norm": 32, "attn_k_norm": 32}, more={"pooling_type": pooling},
    )  # fmt: skip
    path = ggufs.random(tmp_path / "m.gguf", keys, tensors)
    job = Job("", "", "", "", "", CONTEXT, 2, 1, None, kind="embedding", whole=describe(path).whole)
    given = engine("llamacpp").arguments(job)
    with served(path, CONTEXT, 2, tmp_path / "log", more=given[given.index("--embeddings") :]):

        def ask(tokens: int) -> httpx.Response:
            body = {"input": [n * 7 % 490 + 1 for n in range(tokens)]}
            return httpx.post(f"http://127.0.0.1:{PORT}/v1/embeddings", json=body, timeout=60, trust_env=False)

        def listens() -> bool:
            try:
                return ask(4).status_code == 200
            except httpx.ConnectError:
                return False

        wait_until(listens)
        for tokens in (600, CONTEXT - 1):  # more than llama.cpp's own batch of 512
            answer = ask(tokens).json()
            assert answer["usage"]["prompt_tokens"] == tokens and len(answer["data"][0]["embedding"]) == 64
        assert ask(CONTEXT + 1).status_code >= 400
