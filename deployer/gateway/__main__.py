"""`python -m deployer.gateway`, and `python -m gateway` in the image: serves the gateway until it is ended."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="gateway", description="the door in front of an engine")
    parser.add_argument("--upstream", required=True, help="the engine's address")
    parser.add_argument("--upstream-model", required=True, help="what the engine calls the model")
    parser.add_argument("--model", required=True, help="what clients call it")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key-file", type=Path, help="file with the API key; without it no key is asked for")
    options = parser.parse_args()

    import uvicorn

    from .app import build

    app = build(
        upstream=options.upstream,
        upstream_model=options.upstream_model,
        model=options.model,
        key=options.key_file.read_text().strip() if options.key_file else None,
    )
    uvicorn.run(app, host=options.host, port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
