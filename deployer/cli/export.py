"""`deployer export`: what other programs need to work with deployments."""

from __future__ import annotations

import json
from typing import Any

import click

# title, unit, legend and PromQL of each line; the names are those of the gateway's /metrics
_MODEL = '{model_name=~"$model"}'


def _quantile(of: str, share: float) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate(deployer_{of}_seconds_bucket{_MODEL}[$__rate_interval])))"


def _quantiles(of: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, _quantile(of, share)) for name, share in (("median", 0.5), ("95 %", 0.95), ("99 %", 0.99)))


def _rate(of: str, by: str = "") -> str:
    summed = f"sum by ({by})" if by else "sum"
    return f"{summed} (rate({of}{_MODEL}[$__rate_interval]))"


PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Tokens", "short", (
        ("answers", _rate("deployer_generation_tokens_total")), ("prompts", _rate("deployer_prompt_tokens_total")),
    )),
    ("Requests", "reqps", (("{{code}}", _rate("deployer_requests_total", "code")),)),
    ("Time to first token", "s", _quantiles("time_to_first_token")),
    ("Time for each further token", "s", _quantiles("time_per_output_token")),
    ("Whole request", "s", _quantiles("e2e_request_latency")),
    ("Waiting for a slot", "s", _quantiles("request_queue_time")),
    ("Running and waiting", "short", (
        ("on {{replica}}", f"deployer_num_requests_running{_MODEL}"), ("waiting", "deployer_num_requests_waiting"),
    )),
    ("Errors by cause", "reqps", (("{{cause}}", _rate("deployer_request_errors_total", "cause")),)),
    ("Engines that answer", "short", (("{{replica}}", f"deployer_replica_up{_MODEL}"),)),
    ("GPU: utilization", "percent", (("{{gpu}} {{modelName}}", "DCGM_FI_DEV_GPU_UTIL"),)),
    ("GPU: memory", "mbytes", (
        ("{{gpu}} used", "DCGM_FI_DEV_FB_USED"), ("{{gpu}} free", "DCGM_FI_DEV_FB_FREE"),
    )),
    ("GPU: temperature", "celsius", (("{{gpu}} {{modelName}}", "DCGM_FI_DEV_GPU_TEMP"),)),
    ("GPU: power", "watt", (("{{gpu}} {{modelName}}", "DCGM_FI_DEV_POWER_USAGE"),)),
    ("GPU: last Xid of an hour", "none", (("{{gpu}} {{UUID}}", "DCGM_FI_DEV_XID_ERRORS"),)),
    ("The gateway's own memory", "bytes", (("resident", "process_resident_memory_bytes"),)),
)  # fmt: skip


@click.group("export")
def command() -> None:
    """Print what other programs need to work with deployments."""


@command.command("grafana")
def grafana() -> None:
    """Print a Grafana dashboard, as JSON to be imported, for what gateways tell Prometheus under /metrics."""
    click.echo(json.dumps(dashboard(), indent=1))


def dashboard() -> dict[str, Any]:
    """Grafana's JSON model; it asks for the Prometheus data source when it is imported."""
    source = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
    panels = []
    for number, (title, unit, lines) in enumerate(PANELS):
        panels.append({
            "id": number + 1, "type": "timeseries", "title": title, "datasource": source,
            "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
            "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + at), "datasource": source, "expr": expression, "legendFormat": legend}
                for at, (legend, expression) in enumerate(lines)
            ],
        })  # fmt: skip
    variable = {
        "name": "model", "label": "Model", "type": "query", "datasource": source, "refresh": 2, "includeAll": True,
        "multi": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
        "query": {"query": "label_values(deployer_requests_total, model_name)", "refId": "model"},
    }  # fmt: skip
    return {
        "__inputs": [{"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "pluginId": "prometheus"}],
        "title": "deployer", "uid": "deployer", "schemaVersion": 39, "version": 1, "editable": True, "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"}, "templating": {"list": [variable]}, "panels": panels,
    }  # fmt: skip
