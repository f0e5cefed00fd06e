"""Ports with their owners, and places that answer: straight, through a proxy, over TLS."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer import host
from deployer.host import Answer, Port, Proxies, Questions, Unknown
from deployer.host.network import answer, proxies
from tests.host.conftest import as_nobody, put
from tests.host.served import running, served


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_held_port_names_its_owner(address: str, ask: Questions) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as server:
        try:
            server.bind((address, 0))
        except OSError:
            pytest.skip(f"this machine has no {address}")
        server.listen()
        number = server.getsockname()[1]
        found = host.probe(replace(ask, root=Path("/"), ports=(number,))).ports[str(number)]
        assert isinstance(found, Port)
        assert not found.free
        assert str(found.owner).endswith(f" (pid {os.getpid()})")
    assert host.port_owner(number) is None


def test_a_port_that_nobody_holds_is_free(ask: Questions) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        number = server.getsockname()[1]
    assert host.probe(replace(ask, ports=(number,))).ports == {str(number): Port(number, True, None)}


def test_a_port_that_this_user_may_not_open_is_unknown() -> None:
    try:
        least = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except OSError:
        least = 1024
    if least < 2:
        pytest.skip("every user may open every port here")
    code = "print(probe(Questions(Path('/'), Path('/'), ports=(1,))).ports['1'])"
    assert as_nobody(code) == "Unknown(reason='this user may not open port 1')"


def test_the_owner_of_a_port_is_read_from_the_tables_of_the_kernel(ask: Questions) -> None:
    head = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    )
    row = "   0: 0100007F:1F40 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 4242 1\n"
    put(ask.proc / "net/tcp", head + row.format(state="0A"))
    assert host.port_owner(8000, ask.proc) is None  # somebody else's
    put(ask.proc / "77/comm", "nginx\n")
    (ask.proc / "77/fd").mkdir()
    (ask.proc / "77/fd/3").symlink_to("socket:[4242]")
    assert host.port_owner(8000, ask.proc) == "nginx (pid 77)"
    assert host.port_owner(8001, ask.proc) is None
    put(ask.proc / "net/tcp", head + row.format(state="01"))  # a connection, not a listener
    assert host.port_owner(8000, ask.proc) is None


@pytest.mark.parametrize("status", [200, 401, 503])
def test_a_place_that_answers(status: int, ask: Questions) -> None:
    with served(("127.0.0.1", 0), {"/": {}}, status) as place:
        url = f"http://127.0.0.1:{place.port}"
        found = host.probe(replace(ask, urls=(url,))).sources[url]
    assert isinstance(found, Answer)
    assert found == Answer(url, status, found.seconds)
    assert isinstance(found.seconds, float)
    assert 0 <= found.seconds < 2
    assert [(method, path) for method, path, _ in place.seen] == [("HEAD", "/")]


def test_a_place_that_takes_its_time_says_how_long(ask: Questions) -> None:
    class Slow(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            threading.Event().wait(0.3)
            self.request.sendall(b"HTTP/1.0 200 OK\r\n\r\n")

    with running(("127.0.0.1", 0), Slow) as (_, port):
        found = answer(f"http://127.0.0.1:{port}/", ask)
    assert isinstance(found.seconds, float)
    assert 0.3 <= found.seconds < 1.8


def test_a_place_that_does_not_answer_is_unknown(ask: Questions) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        found = host.probe(replace(ask, urls=(url,))).sources[url]
    assert isinstance(found, Unknown)
    assert "Connection refused" in found.reason


def test_a_place_that_does_not_speak_http_is_unknown(ask: Questions) -> None:
    class Other(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"220 hello\r\n")

    with running(("127.0.0.1", 0), Other) as (_, port):
        url = f"http://127.0.0.1:{port}/"
        found = host.probe(replace(ask, urls=(url,))).sources[url]
    assert isinstance(found, Unknown)
    assert found.reason == "it does not speak HTTP"


@pytest.mark.parametrize("proxy", [None, "http://proxy.invalid:3128"])
def test_a_name_that_nobody_knows_is_named(proxy: str | None, ask: Questions) -> None:
    name = "proxy.invalid" if proxy else "nowhere.invalid"
    with pytest.raises(OSError, match=f"the name {re.escape(name)} cannot be resolved"):
        answer("https://nowhere.invalid/", replace(ask, proxies={"https": proxy} if proxy else {}))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody else has signed, and its key, in one file."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=here"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", path.with_name("cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + path.with_name("cert.pem").read_bytes())
    return path


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("cert.pem")))
    return certificate


def test_a_certificate_that_is_not_trusted_is_named(certificate: Path, ask: Questions) -> None:
    with served(("127.0.0.1", 0), {"/": {}}, certificate=certificate) as place:
        url = f"https://127.0.0.1:{place.port}"
        found = host.probe(replace(ask, urls=(url,))).sources[url]
    assert isinstance(found, Unknown)
    assert re.fullmatch(r"certificate not trusted: self.signed certificate", found.reason)
    assert place.seen == []


def test_a_certificate_for_another_name_is_named(trusted: Path, ask: Questions) -> None:
    with served(("127.0.0.1", 0), {"/": {}}, certificate=trusted) as place:
        url = f"https://localhost:{place.port}"
        found = host.probe(replace(ask, urls=(url,))).sources[url]
    assert isinstance(found, Unknown)
    assert found.reason.startswith("certificate not trusted: Hostname mismatch")


def test_a_certificate_that_this_user_trusts(trusted: Path, ask: Questions) -> None:
    with served(("127.0.0.1", 0), {"/v2/": (401, {})}, certificate=trusted) as place:
        assert answer(f"https://127.0.0.1:{place.port}/v2/", ask).status == 401


def test_tls_with_a_place_that_has_none_is_unknown(ask: Questions) -> None:
    with served(("127.0.0.1", 0), {"/": {}}) as place:
        url = f"https://127.0.0.1:{place.port}"
        found = host.probe(replace(ask, urls=(url,))).sources[url]
    assert isinstance(found, Unknown)
    assert "certificate" not in found.reason


class Tunnels(socketserver.StreamRequestHandler):
    """A proxy: opens tunnels for CONNECT, for users it knows."""

    heads: list[str]
    user: str | None

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.rfile.readline()
        self.heads.append(head.decode())
        known = self.user and f"Basic {base64.b64encode(self.user.encode()).decode()}"
        if known and f"Proxy-Authorization: {known}\r\n" not in head.decode():
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        if not head.startswith(b"CONNECT "):
            self.wfile.write(b"HTTP/1.1 418 From the proxy\r\n\r\n")
            return
        name, _, port = head.split()[1].decode().partition(":")
        with socket.create_connection((name, int(port))) as other:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self.pump, args=(other, self.connection))
            back.start()
            self.pump(self.connection, other)
            back.join()

    def pump(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := one.recv(4096):
                other.sendall(part)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(user: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """The address of a proxy, and the heads of the requests that arrive there."""
    heads: list[str] = []
    kind = type("Handler", (Tunnels,), {"heads": heads, "user": user})
    with running(("127.0.0.1", 0), kind) as (_, port):
        yield f"127.0.0.1:{port}", heads


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_tls_goes_through_a_tunnel_of_the_proxy(scheme: str, trusted: Path, ask: Questions) -> None:
    with served(("127.0.0.1", 0), {"/": {}}, certificate=trusted) as place, proxy() as (address, heads):
        told = replace(ask, proxies={"https": scheme + address})
        assert answer(f"https://127.0.0.1:{place.port}/", told).status == 200
    assert [head.split("\r\n")[0].split()[:2] for head in heads] == [["CONNECT", f"127.0.0.1:{place.port}"]]
    assert len(place.seen) == 1


def test_a_proxy_is_told_its_password_and_the_place_is_not(trusted: Path, ask: Questions) -> None:
    with (
        served(("127.0.0.1", 0), {"/": {}}, certificate=trusted) as place,
        proxy("someone:p@ss") as (address, heads),
    ):
        told = replace(ask, proxies={"https": f"http://someone:p%40ss@{address}"})
        assert answer(f"https://127.0.0.1:{place.port}/", told).status == 200
        with pytest.raises(OSError, match="407"):
            answer(f"https://127.0.0.1:{place.port}/", replace(ask, proxies={"https": f"http://{address}"}))
    assert len(heads) == 2
    assert "Proxy-Authorization" not in place.seen[0][2]


def test_a_plain_request_is_given_to_the_proxy_whole(ask: Questions) -> None:
    with proxy("someone:secret") as (address, heads):
        told = replace(ask, proxies={"http": f"http://someone:secret@{address}"})
        assert answer("http://nowhere.invalid/simple/", told).status == 418
        assert answer("http://nowhere.invalid/", replace(ask, proxies={"http": address})).status == 407
    assert heads[0].startswith("HEAD http://nowhere.invalid/simple/ HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("exempt", "through"),
    [
        pytest.param("", True, id="nothing"),
        pytest.param("127.0.0.1", False, id="the place"),
        pytest.param("other, 127.0.0.1:{port}", False, id="the place with its port"),
        pytest.param("127.0.0.1:1", True, id="another port"),
        pytest.param("*", False, id="everything"),
        pytest.param(".0.0.1", False, id="the end of its name"),
        pytest.param("*.0.0.1", False, id="the end of its name with a star"),
        pytest.param("27.0.0.1", True, id="half a part of its name"),
        pytest.param(" , ", True, id="commas"),
    ],
)
def test_places_that_no_proxy_is_asked_for(exempt: str, through: bool, ask: Questions) -> None:
    with served(("127.0.0.1", 0), {"/": {}}) as place, proxy() as (address, heads):
        told = {"http": f"http://{address}", "no": exempt.format(port=place.port)}
        status = answer(f"http://127.0.0.1:{place.port}/", replace(ask, proxies=told)).status
    assert status == (418 if through else 200)
    assert bool(heads) is through


@pytest.mark.parametrize(
    ("told", "found"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"no": "localhost"}, None, id="only places without"),
        pytest.param({"http": ""}, None, id="empty"),
        pytest.param(
            {"https": "http://proxy:3128"}, Proxies(None, "http://proxy:3128", ()), id="https alone"
        ),
        pytest.param(
            {"http": "http://proxy:3128", "no": "localhost, .corp,,10.0.0.0/8"},
            Proxies("http://proxy:3128", None, ("localhost", ".corp", "10.0.0.0/8")),
            id="places without",
        ),
        pytest.param(
            {"http": "http://me:secret@proxy:3128/", "https": "me:se@cret@proxy:3128"},
            Proxies("http://proxy:3128/", "proxy:3128", ()),
            id="passwords",
        ),
    ],
)
def test_proxies(told: dict[str, str], found: Proxies | None, ask: Questions) -> None:
    assert host.probe(replace(ask, proxies=told)).proxies == found


@given(st.text("abc:@%#", min_size=1), st.sampled_from(["http://", "socks5://", ""]))
def test_no_password_is_kept(password: str, scheme: str) -> None:
    told = Questions(Path("/"), Path("/"), proxies={"http": f"{scheme}user:{password}@proxy:1"})
    assert proxies(told) == Proxies(f"{scheme}proxy:1", None, ())
