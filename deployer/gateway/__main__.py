"""`python -m deployer.gateway`, and `python -m gateway` in the image: serves the gateway until it is ended."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="gateway", description="the door in front of engines")
    parser.add_argument("--config", required=True, type=Path, help="folder with gateway.json and keys.json")
    parser.add_argument("--state", type=Path, help="folder in which the last use of keys is kept")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", type=Path, help="file with the certificate chain, for TLS")
    parser.add_argument("--certificate-key", type=Path, help="file with its private key")
    options = parser.parse_args()

    import uvicorn

    from .app import Gateway
    from .config import ConfigError

    try:
        gateway = Gateway(options.config, options.state)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    served = uvicorn.Config(
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
    served.load()
    if served.ssl:
        gateway.certify = partial(served.ssl.load_cert_chain, options.certificate, options.certificate_key)
    server = uvicorn.Server(served)
    server.run()
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
