"""The dashboard asks for nothing but what the gateway tells."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx

from deployer.cli.export import PANELS
from tests.gateway.door import BEARER, CHAT, Engine, configure, gateway, model, replica
from tests.gateway.test_gateway_gpus import gpu, gpus
from tests.gateway.test_safety import says


def test_every_name_of_the_dashboard_is_there_after_one_request(tmp_path: Path) -> None:
    with Engine() as engine:
        engine.play = says("a", "b", "c", pause=0.05)
        configure(tmp_path, model(replica(engine.url)))
        (tmp_path / "gpus.json").write_text(json.dumps(gpus(gpu())))
        with gateway(tmp_path) as url, httpx.Client(trust_env=False, headers=BEARER, base_url=url) as client:
            assert client.post(CHAT, json={"stream": True}).status_code == 200
            assert client.post(CHAT, json={"model": "other"}).status_code == 404
            text = client.get("/metrics").text
    told = {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}
    labels = set(re.findall(r'(\w+)="', text))
    for _, _, lines in PANELS:
        for legend, expression in lines:
            names = set(re.findall(r"(?:deployer|process|DCGM_FI_DEV)_\w+", expression))
            assert names and names <= told, names - told
            assert set(re.findall(r"{{(\w+)}}", legend)) <= labels


def test_the_dashboard_is_json_that_grafana_imports() -> None:
    done = subprocess.run([sys.executable, "-m", "deployer", "export", "grafana"], capture_output=True, check=True)
    value = json.loads(done.stdout)
    assert value["__inputs"][0]["pluginId"] == "prometheus"
    assert len(value["panels"]) == len(PANELS)
    assert len({panel["id"] for panel in value["panels"]}) == len(PANELS)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in value["panels"]}) == len(PANELS)
