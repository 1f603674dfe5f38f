"""Requests under other names and from other sites, as a browser would send them."""

from __future__ import annotations

import socket

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from speechde.demo.guard import HEADERS, Guard, Names, hostname
from speechde.errors import ConfigError


async def answer(request):
    return PlainTextResponse("the page")


async def talk(websocket):
    await websocket.accept()
    await websocket.close()


APP = Starlette(routes=[Route("/", answer, methods=["GET", "POST", "OPTIONS"]), WebSocketRoute("/ws", talk)])


def client(host="127.0.0.1", *names):
    return TestClient(Guard(APP, Names.of(host, names)))


@pytest.mark.parametrize(
    ("served", "asked", "good"),
    [
        ("127.0.0.1", "127.0.0.1:7860", True),
        ("127.0.0.1", "localhost:7860", True),
        ("127.0.0.1", "LocalHost", True),
        ("127.0.0.1", "[::1]:7860", True),
        ("localhost", "127.0.0.1", True),
        ("127.0.0.1", "localhost.", True),
        ("127.0.0.1", "evil.example:7860", False),
        ("127.0.0.1", "127.0.0.1.evil.example", False),
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "localhost@evil.example", False),
        ("127.0.0.1", "evil.example@localhost", False),
        ("127.0.0.1", "evil.example/localhost", False),
        ("127.0.0.1", "localhost:port", False),
        ("127.0.0.1", "[localhost", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "192.168.1.2", False),  # a machine with a forwarded port, not this one
        ("192.168.1.2", "192.168.1.2:80", True),
        ("192.168.1.2", "localhost", False),
        ("0.0.0.0", "192.168.1.2:7860", True),
        ("0.0.0.0", "[fe80::1]", True),
        ("0.0.0.0", "localhost", True),
        ("0.0.0.0", socket.gethostname(), True),
        ("::", "10.0.0.1", True),
        ("0.0.0.0", "evil.example", False),
    ],
)
def test_names(served, asked, good):
    response = client(served).get("/", headers={"Host": asked})
    assert response.status_code == (200 if good else 421)
    assert ("the page" in response.text) == good
    assert "access-control-allow-origin" not in response.headers


def test_two_hosts_are_none():
    response = client().get("/", headers=[("Host", "localhost"), ("Host", "evil.example")])
    assert response.status_code == 421


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    ("origin", "good"),
    [
        ("http://localhost:7860", True),
        ("http://LOCALHOST:7860", True),
        ("http://localhost:3000", False),  # another program of this machine
        ("http://127.0.0.1:7860", False),  # the same page, which a browser takes for another site
        ("https://evil.example", False),
        ("null", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_pages_that_ask(method, origin, good):
    response = client().request(method, "/", headers={"Host": "localhost:7860", "Origin": origin})
    assert response.status_code == (200 if good else 403)
    assert "access-control-allow-origin" not in response.headers


def test_a_proxy_in_front():
    """With its own name, or with that of the page: proxies differ in the ``Host`` that they send on."""
    page = client("127.0.0.1", "search.example.org")
    for host in ("127.0.0.1:7860", "search.example.org"):
        assert page.post("/", headers={"Host": host, "Origin": "https://search.example.org"}).status_code == 200
        assert page.post("/", headers={"Host": host, "Origin": "https://evil.example.org"}).status_code == 403
    for name in ("https://search.example.org", "search.example.org:443", "a/b", "", "a b@c"):
        with pytest.raises(ConfigError, match="not the name of a host"):
            Names.of("127.0.0.1", [name])


def test_programs_without_an_origin_may_ask():
    assert client().post("/", headers={"Host": "127.0.0.1:7860"}).status_code == 200


def test_websockets():
    page = client()
    with page.websocket_connect("/ws", headers={"Host": "localhost:7860", "Origin": "http://localhost:7860"}):
        pass
    for headers in ({"Host": "evil.example"}, {"Host": "localhost:7860", "Origin": "http://evil.example"}):
        with pytest.raises(WebSocketDisconnect) as refused, page.websocket_connect("/ws", headers=headers):
            pass
        assert refused.value.code == 1008


def test_every_answer_has_the_headers():
    for host in ("localhost", "evil.example"):
        headers = client().get("/", headers={"Host": host}).headers
        assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_hostname():
    assert [hostname(host) for host in ("A:1", "[::1]:1", "a.", ":1", "a:b")] == ["a", "::1", "a", None, None]
