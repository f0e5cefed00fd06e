"""`read_header` on headers that are right, damaged, cut and absurd."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployer.errors import ModelError
from deployer.models import Header, read_header
from deployer.models.headers import format_of
from tests.models.headers import (
    ARRAY,
    BOOL,
    CONFIG,
    F32,
    F64,
    I32,
    LLAMA,
    STRING,
    U32,
    U64,
    entry,
    gguf,
    llama,
    text,
)  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def made(content: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return path

    return made


EXPECTED = Header("llama", 8192, 30, 3, 64, False)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(llama(), EXPECTED, id="v3"),
        pytest.param(llama(version=2), EXPECTED, id="v2"),
        pytest.param(llama() + b"\0" * 100_000, EXPECTED, id="with-weights-after-it"),
        pytest.param(
            llama(entry("tokenizer.chat_template", STRING, "{{ messages }}")),
            Header("llama", 8192, 30, 3, 64, True),
            id="chat-template",
        ),
        pytest.param(
            llama(leave_out="llama.attention.head_count_kv"), Header("llama", 8192, 30, 9, 64, False),
            id="no-grouped-heads",
        ),
        pytest.param(
            llama(attention__key_length=(U32, 128), attention__value_length=(U32, 96)),
            Header("llama", 8192, 30, 3, 128, False),
            id="key-length",
        ),
        pytest.param(
            llama(attention__value_length=(U32, 256)), Header("llama", 8192, 30, 3, 256, False),
            id="values-larger-than-keys",
        ),
        pytest.param(
            llama(
                attention__head_count=(ARRAY, [9, 18], U32), attention__head_count_kv=(ARRAY, [0, 2, 6], I32),
                embedding_length=(U64, 1152),
            ),
            Header("llama", 8192, 30, 6, 64, False),
            id="heads-that-differ-by-layer",
        ),
        pytest.param(
            llama(
                entry("x.bool", BOOL, True), entry("x.f64", F64, 1.5), entry("x.i8", 1, -1),
                entry("x.empty", ARRAY, [], STRING), entry("x.flags", ARRAY, [True, False], BOOL),
            ),
            EXPECTED,
            id="every-kind-of-value",
        ),
    ],
)  # fmt: skip
def test_gguf(write: Any, content: bytes, expected: Header) -> None:
    assert read_header(write(content)) == expected


def nested(depth: int) -> bytes:
    """An array in an array in an array …"""
    return gguf(text("a") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * depth)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"GGUF", id="magic-only"),
        pytest.param(b"<!DOCTYPE html>" * 10, id="page"),
        pytest.param(b"PK\3\4" + llama()[4:], id="other-magic"),
        pytest.param(llama(version=1), id="version-1"),
        pytest.param(llama(version=4), id="version-4"),
        pytest.param(struct.pack(">4sIQQ", b"GGUF", 3, 1, 0), id="big-endian"),
        pytest.param(gguf(), id="no-keys"),
        pytest.param(gguf(count=1 << 60), id="absurd-count"),
        pytest.param(gguf(count=1 << 16), id="count-too-large"),
        pytest.param(gguf(struct.pack("<Q", 1 << 62)), id="absurd-key"),
        pytest.param(gguf(text("a") + struct.pack("<IQ", STRING, 1 << 63)), id="absurd-text"),
        pytest.param(gguf(text("a") + struct.pack("<IIQ", ARRAY, U32, 1 << 62)), id="absurd-numbers"),
        pytest.param(gguf(text("a") + struct.pack("<IIQ", ARRAY, STRING, 1 << 62)), id="absurd-texts"),
        pytest.param(gguf(text("a") + struct.pack("<IIQ", ARRAY, ARRAY, 1 << 62)), id="absurd-arrays"),
        pytest.param(nested(100_000), id="deep-arrays"),
        pytest.param(gguf(text("a") + struct.pack("<I", 99)), id="unknown-kind"),
        pytest.param(gguf(text("a") + struct.pack("<IIQ", ARRAY, 99, 1)), id="array-of-unknown-kind"),
        pytest.param(llama(attention__head_count=(U32, 0)), id="no-heads"),
        pytest.param(llama(attention__head_count=(ARRAY, [], U32)), id="empty-heads"),
        pytest.param(llama(attention__head_count=(F32, float("inf"))), id="infinite-heads"),
        pytest.param(llama(attention__head_count=(F32, float("nan"))), id="nan-heads"),
        pytest.param(llama(attention__head_count=(STRING, "many")), id="heads-as-text"),
        pytest.param(llama(context_length=(STRING, "long")), id="context-as-text"),
        pytest.param(llama(context_length=(I32, -1)), id="negative-context"),
        pytest.param(llama(block_count=(ARRAY, [1], U32)), id="layers-as-list"),
        pytest.param(llama(embedding_length=(F64, 576.5)), id="fractional-width"),
        pytest.param(gguf(entry("general.architecture", U32, 7)), id="architecture-as-number"),
        *(pytest.param(llama(leave_out=key), id=f"without-{key}") for key in (
            "general.architecture", "llama.context_length", "llama.block_count", "llama.embedding_length",
            "llama.attention.head_count",
        )),
    ],
)  # fmt: skip
def test_gguf_that_is_not_right(write: Any, content: bytes) -> None:
    with pytest.raises(ModelError, match=r"header of model\.gguf") as caught:
        read_header(write(content))
    assert caught.value.hint


def test_a_header_that_is_cut_anywhere(write: Any) -> None:
    content = gguf(
        entry("general.architecture", STRING, "llama"),
        entry("tokenizer.ggml.tokens", ARRAY, ["a", "b"], STRING),
        *(entry(key, *value) for key, value in LLAMA.items()),
    )
    assert read_header(write(content)) == EXPECTED
    for end in range(len(content)):
        with pytest.raises(ModelError):
            read_header(write(content[:end]))


def only_model_errors(content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(content)
        file.flush()
        try:
            header = read_header(Path(file.name))
        except ModelError:
            return
        assert all(type(n) is int and n >= 0 for n in (header.context, header.layers, header.kv_heads))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"\3\0\0\0", gguf(count=1), gguf(count=3)[4:]]))
@example(b"\0" * 300, b"\3\0\0\0")
def test_any_bytes_after_the_magic(rest: bytes, start: bytes) -> None:
    only_model_errors(b"GGUF" + start.removeprefix(b"GGUF") + rest)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_byte_of_a_right_header_may_be_wrong(data: st.DataObject) -> None:
    content = bytearray(
        gguf(
            entry("general.architecture", STRING, "llama"),
            *(entry(key, *value) for key, value in LLAMA.items()),
            entry("a", ARRAY, [1, 2], U32),
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    only_model_errors(bytes(content))


GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
}
CHAT = {"tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"})}


@pytest.mark.parametrize(
    ("config", "others", "expected"),
    [
        pytest.param(CONFIG, {}, Header("LlamaForCausalLM", 8192, 30, 3, 64, False), id="llama"),
        pytest.param(GPT2, {}, Header("GPT2LMHeadModel", 1024, 12, 12, 64, False), id="gpt2"),
        pytest.param(CONFIG, CHAT, Header("LlamaForCausalLM", 8192, 30, 3, 64, True), id="template-in-json"),
        pytest.param(
            CONFIG, {"chat_template.jinja": "{{ messages }}"},
            Header("LlamaForCausalLM", 8192, 30, 3, 64, True), id="template-in-jinja",
        ),
        pytest.param(
            CONFIG, {"tokenizer_config.json": "{}"}, Header("LlamaForCausalLM", 8192, 30, 3, 64, False),
            id="no-template",
        ),
        pytest.param(
            {**CONFIG, "head_dim": 128}, {}, Header("LlamaForCausalLM", 8192, 30, 3, 128, False), id="head-dim"
        ),
        pytest.param(
            {"model_type": "both", "text_config": CONFIG}, {},
            Header("LlamaForCausalLM", 8192, 30, 3, 64, False), id="text-and-images",
        ),
        pytest.param(
            {k: v for k, v in CONFIG.items() if k != "architectures"}, {},
            Header("llama", 8192, 30, 3, 64, False), id="no-architectures",
        ),
    ],
)  # fmt: skip
def test_config(tmp_path: Path, config: Any, others: dict[str, str], expected: Header) -> None:
    for name, content in {"config.json": json.dumps(config), **others}.items():
        (tmp_path / name).write_text(content)
    assert read_header(tmp_path) == expected


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="missing"),
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="half"),
        pytest.param(b"\xff\xfe", id="not-text"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}", id="no-keys"),
        pytest.param(b"[" * 200_000, id="deep"),
        pytest.param(json.dumps({**CONFIG, "text_config": None}).encode(), id="no-text-config"),
        pytest.param(json.dumps({**GPT2, "n_head": 0}).encode(), id="no-heads"),
        pytest.param(json.dumps({**GPT2, "n_layer": "twelve"}).encode(), id="layers-as-text"),
        pytest.param(json.dumps({**GPT2, "n_positions": None}).encode(), id="no-context"),
        pytest.param(
            json.dumps({**CONFIG, "architectures": {"a": 1}}).encode(), id="architectures-as-object"
        ),
        pytest.param(json.dumps({**CONFIG, "architectures": [7]}).encode(), id="architecture-as-number"),
        pytest.param(json.dumps({**CONFIG, "hidden_size": 1e400}).encode(), id="infinite-width"),
    ],
)
def test_config_that_is_not_right(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match="header of"):
        read_header(tmp_path)


@pytest.mark.parametrize("content", ["{", "7", "null"], ids=["half", "number", "null"])
def test_a_tokenizer_that_is_not_right(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(ModelError):
        read_header(tmp_path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.gguf", "README.md"], "gguf"),
        (["config.json", "a.safetensors"], "safetensors"),
        (["model.bin", "b.safetensors"], "safetensors"),
    ],
    ids=["gguf", "safetensors", "beside-a-pickle"],
)
def test_formats(names: list[str], expected: str) -> None:
    assert format_of(names) == expected


@pytest.mark.parametrize(
    "names", [["model.bin"], ["model.pt", "config.json"], []], ids=["bin", "pt", "nothing"]
)
def test_formats_that_are_not_loaded(names: list[str]) -> None:
    with pytest.raises(ModelError, match="safe") as caught:
        format_of(names)
    assert "pickle" in (caught.value.hint or "")
