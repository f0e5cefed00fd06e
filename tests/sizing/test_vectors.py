"""What `fit` answers for models that give vectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployer import compat, profile
from deployer.models import metadata
from deployer.sizing import devices
from deployer.sizing.devices import Device
from deployer.sizing.fit import answers
from deployer.sizing.lines import Source
from deployer.sizing.lines import profile as written
from deployer.sizing.memory import BATCH, Use, memory, step
from tests.sizing import ggufs

GIB = 1 << 30
CPU = Device("cpu", "processor", 1, 32 * GIB, 32 * GIB, 20e9, "ddr")


@pytest.fixture
def model(tmp_path: Path) -> metadata.Description:
    made = ggufs.bert(h=384, heads=12, wide=1536, vocab=30522, layers=6, kind="F16")
    return metadata.describe(ggufs.write(tmp_path / "m.gguf", *made))


def test_engines_without_embeddings_have_no_answer_and_nobody_is_promised_tokens(model: metadata.Description) -> None:
    (found,) = answers(model, [CPU])
    assert (found.engine, found.fits, found.context, found.speed) == ("llamacpp", True, 512, None)
    card = compat.find("RTX 4090")
    assert card
    (on_card,) = answers(model, [devices.named(card, 1, 64 * GIB)])
    assert on_card.engine == "llamacpp" and on_card.memory.part("cache") == 0


def test_more_users_take_no_cache(model: metadata.Description) -> None:
    one, many = memory(model, "llamacpp", Use(512, 1)), memory(model, "llamacpp", Use(512, 64))
    assert one.part("cache") == many.part("cache") == 0 and one.part("compute") == many.part("compute")
    assert 0 < many.total - one.total < 64 * 4 * (30522 + 384)


def test_a_longer_text_takes_more_scratch_because_it_is_one_batch(tmp_path: Path) -> None:
    made = metadata.describe(ggufs.write(tmp_path / "m.gguf", *ggufs.bert(context=8192)))
    short, long = (memory(made, "llamacpp", Use(tokens)).part("compute") for tokens in (512, 8192))
    assert long > 16 * short, "rows grow with the text, the mask with its square"


def test_a_written_profile_is_one_for_embeddings(model: metadata.Description, tmp_path: Path) -> None:
    (found,) = answers(model, [CPU], users=2)
    source = Source("hf://a/b", None, ("m.gguf",), kind=model.kind)
    (tmp_path / "p.yaml").write_text(written(found, source, name="x"))
    made = profile.load(tmp_path / "p.yaml")
    assert (made.model.kind, made.engine, made.serving.context) == ("embedding", "llamacpp", 512)


def test_vllm_has_room_for_a_text_in_one_step() -> None:
    assert step(512, whole=True) == BATCH < step(8192, whole=True) == 8192
    assert step(8192, whole=False) == BATCH
