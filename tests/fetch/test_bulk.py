"""Large bodies, read past the HTTP library: by TLS, through proxies, cut, stalled, and with odd lengths."""

from __future__ import annotations

import hashlib
import random
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deployer.fetch import Web
from deployer.fetch.http import BULK, bulk
from deployer.fetch.parts import fetch_all
from deployer.fetch.wanted import Address, Wanted, Ways
from deployer.progress import Silent
from tests.servers import FileServer, Manner

CONTENT = random.Random(3).randbytes(3_000_017)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    path = tmp_path / "cert.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=here -addext"
    subprocess.run(
        ["openssl", *words.split(), "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(tmp_path / "c")],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + (tmp_path / "c").read_bytes())
    return path


@contextmanager
def secure(server: FileServer, certificate: Path) -> Iterator[str]:
    """The server behind TLS; its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server._http.socket = context.wrap_socket(server._http.socket, server_side=True)
    with server:
        yield server.url.replace("http:", "https:")


class Proxy:
    """An HTTP proxy that forwards and tunnels; `asked` are the first lines of what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        line = head.split(b"\r\n")[0].decode()
        self.asked.append(line)
        method, target, _ = line.split()
        where = target if method == "CONNECT" else httpx.URL(target).netloc.decode()
        name, _, port = where.partition(":")
        server = socket.create_connection((name, int(port)))
        if method == "CONNECT":
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            server.sendall(head.replace(target.encode(), httpx.URL(target).raw_path, 1))
        threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
        self._pass(server, client)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(1 << 16):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()


def fetched(web: Web, url: str, tmp_path: Path) -> bytes:
    wanted = Wanted("f", (Address(url),), tmp_path / "f", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    with web.client() as client:
        fetch_all(
            client, [wanted], progress=Silent(), done=lambda *_: None,
            ways=Ways(connections=3, part=64 << 10, span=512 << 10, bulk=128 << 10),
        )  # fmt: skip
    return wanted.path.read_bytes()


@pytest.mark.parametrize("through", [False, True], ids=["direct", "proxy"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("ranges", [False, True], ids=["whole", "ranges"])
def test_every_way_to_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: Path, through: bool, tls: bool, ranges: bool
) -> None:
    monkeypatch.delenv("NO_PROXY")
    server = FileServer({"/f": CONTENT}, Manner(ranges=ranges))
    with Proxy() as proxy, secure(server, certificate) if tls else server as made:
        web = Web(ca=certificate, proxy=proxy.url if through else None)
        assert fetched(web, f"{made if tls else server.url}/f", tmp_path) == CONTENT
    assert bool(proxy.asked) == through
    assert all(line.startswith("CONNECT" if tls else "GET http://") for line in proxy.asked)


def test_small_answers_keep_their_connection() -> None:
    with FileServer({"/f": CONTENT}) as server, Web().client() as client:
        ports = set()
        for least in (BULK, BULK, 1, BULK):
            with client.stream("GET", f"{server.url}/f") as answer:
                ports.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
                assert b"".join(map(bytes, bulk(answer, least))) == CONTENT
        assert len(ports) == 2, "only the one that was read past the library is gone"


@pytest.mark.parametrize(
    ("manner", "error"),
    [
        pytest.param(Manner(cut=1_000_000), httpx.RemoteProtocolError, id="cut"),
        pytest.param(Manner(lie=5), httpx.RemoteProtocolError, id="promises-more"),
        pytest.param(Manner(stalls=1, stall=1_000_000), httpx.ReadError, id="stalls"),
    ],
)
def test_what_goes_wrong_is_told_as_the_library_tells_it(manner: Manner, error: type[Exception]) -> None:
    with FileServer({"/f": CONTENT}, manner) as server, httpx.Client(timeout=1.0, trust_env=False) as client:
        came = b""
        with pytest.raises(error), client.stream("GET", f"{server.url}/f") as answer:
            for piece in bulk(answer, 1):
                came += piece
        assert CONTENT.startswith(came)
        assert len(came) >= 900_000


def test_a_body_without_a_length_is_left_to_the_library() -> None:
    with FileServer({"/f": CONTENT}, Manner(chunked=True)) as server, Web().client() as client:
        for content in (CONTENT, b""):
            server.files["/f"] = content
            with client.stream("GET", f"{server.url}/f") as answer:
                assert b"".join(map(bytes, bulk(answer, 1))) == content
