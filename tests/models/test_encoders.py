"""What metadata says of models that give vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deployer.models import metadata
from deployer.models.headers import read_header
from deployer.models.metadata import Layer, shapes
from tests.models.test_metadata import shard
from tests.sizing import ggufs

# all-MiniLM-L6-v2's config.json, and the shapes of its model.safetensors
MINILM = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 384, "intermediate_size": 1536,
    "max_position_embeddings": 512, "num_attention_heads": 12, "num_hidden_layers": 6, "type_vocab_size": 2,
    "vocab_size": 30522,
}  # fmt: skip
PARAMETERS = 22_713_216  # numbers in that file, without position_ids


@pytest.mark.parametrize(
    ("pooling", "name"), [(None, ""), (0, ""), (1, "mean"), (2, "cls"), (3, "last"), (4, "rank"), (9, "")]
)
def test_an_encoder_keeps_nothing_and_says_how_it_pools(tmp_path: Path, pooling: int | None, name: str) -> None:
    made = metadata.describe(ggufs.write(tmp_path / "m.gguf", *ggufs.bert(pooling=pooling)))
    assert made.layers == (Layer("encoder", 4, 16, 16),) * 2
    assert sum(layer.per_token for layer in made.layers) == 0 and made.kinds == {"encoder": 2}
    assert (made.pooling, made.kind, made.encoder, made.whole) == (name, "embedding", True, True)


@pytest.mark.parametrize(
    ("more", "kind", "whole"),
    [({}, "completion", False), ({"pooling_type": 3}, "embedding", False), ({"pooling_type": 1}, "embedding", True)],
)
def test_a_model_that_writes_gives_vectors_where_it_says_so(
    tmp_path: Path, more: dict[str, int], kind: str, whole: bool
) -> None:
    keys, tensors = ggufs.plain("qwen3", layers=1, h=64, heads=2, kv=1, wide=128, vocab=300, more=more)
    made = metadata.describe(ggufs.write(tmp_path / "m.gguf", keys, tensors))
    assert (made.kind, made.whole, made.encoder) == (kind, whole, False)
    assert made.layers[0].kind == "full" and made.layers[0].per_token


def test_shapes_of_a_config_come_close_to_the_real_file() -> None:
    made = shapes.describe(MINILM)
    assert made.kind == "embedding" and made.tied
    assert made.parameters == pytest.approx(PARAMETERS, rel=0.02)


@pytest.mark.parametrize(
    ("mode", "pooling"), [("cls_token", "cls"), ("mean_tokens", "mean"), ("lasttoken", "last"), ("max_tokens", "")]
)
def test_a_folder_of_sentence_transformers(tmp_path: Path, mode: str, pooling: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MINILM))
    tensors: Any = {
        "embeddings.word_embeddings.weight": ("F32", (30522, 384)),
        "encoder.layer.0.attention.self.query.weight": ("F32", (384, 384)),
    }
    (tmp_path / "model.safetensors").write_bytes(shard(tensors))
    (tmp_path / "1_Pooling").mkdir()
    told = {"word_embedding_dimension": 384, "pooling_mode_cls_token": False, f"pooling_mode_{mode}": True}
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(told))
    made = metadata.describe(tmp_path)
    assert (made.pooling, made.kind, made.context) == (pooling, "embedding", 512)
    if pooling:
        (tmp_path / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": mode.partition("_")[0]}))
        assert metadata.describe(tmp_path).pooling == pooling, "the newer way"
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 256, "do_lower_case": false}')
    assert metadata.describe(tmp_path).context == read_header(tmp_path).context == 256, "vLLM reads no more"
    assert made.weights == 4 * (30522 + 384) * 384
