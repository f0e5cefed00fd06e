"""A GPU that is cut into MIG slices: one is a GPU of its own, several are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deployer.errors import Refused
from deployer.home import Home
from deployer.host import Mig
from deployer.plan import rank, resolve
from tests import hosts
from tests.checks.machines import CUT, cards
from tests.checks.rows import GPU, TWO


@pytest.mark.parametrize(
    ("devices", "injection"), [((), "hook"), (("0:0", "0:1", "MIG-aaaa", "MIG-bbbb", "all"), "cdi")]
)
def test_pain_10_a_profile_for_one_gpu_gets_a_slice_by_its_uuid(
    devices: tuple[str, ...], injection: str, tmp_path: Path
) -> None:
    mig = CUT.mig
    assert isinstance(mig, Mig)
    slices = (replace(mig.slices[0], free_vram=9), mig.slices[1])
    gpu = replace(CUT, mig=replace(mig, slices=slices))
    host = cards(gpu, host=replace(hosts.RTX, runtime=replace(hosts.DOCKER, cdi_gpus=devices)))
    choice = resolve(host, GPU, home=Home(tmp_path), runtime=("docker", "a reason"), base="debian:x")
    assert (choice.gpus, choice.gpu_injection) == (("MIG-bbbb",), injection)


def test_pain_10_a_profile_for_two_gpus_is_refused_with_the_reason() -> None:
    host = cards(CUT, replace(CUT, index=1))
    with pytest.raises(Refused) as refused:
        rank(lambda _: host, [TWO])
    assert any("cut into slices, which have no way to each other" in line for line in refused.value.evidence)
