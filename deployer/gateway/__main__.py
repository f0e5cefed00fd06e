"""`python -m deployer.gateway`, and `python -m gateway` in the image: serves the gateway until it is ended."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="gateway", description="the door in front of engines")
    parser.add_argument("--config", required=True, type=Path, help="folder with gateway.json and keys.json")
    parser.add_argument("--state", type=Path, help="folder in which the last use of keys is kept")
    parser.add_argument("--engine-port", default="", help="what stands for {engine_port} in addresses of engines")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", type=Path, help="file with the certificate chain, for TLS")
    parser.add_argument("--certificate-key", type=Path, help="file with its private key")
    options = parser.parse_args()

    import uvicorn

    from .app import Gateway
    from .config import ConfigError

    try:
        gateway = Gateway(options.config, options.state, {"engine_port": options.engine_port})
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    uvicorn.run(
        gateway,
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        ssl_certfile=options.certificate,
        ssl_keyfile=options.certificate_key,
        timeout_graceful_shutdown=30,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
