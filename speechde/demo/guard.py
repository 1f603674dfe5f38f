"""Which requests the page answers: those under its own names, and from its own pages.

It has no password, so a browser on the same machine or network must not become the way in. A page of another site can
let a name of its own point to this machine (DNS rebinding), and its scripts then read what the browser is sent: such a
request carries that name as ``Host``. It can also post a form or a file to this address: such a request carries the
site as ``Origin``. Both are refused before Gradio sees them, and no answer may be framed.

An address in figures cannot be rebound, so where the network is let in any of them is good.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speechde.errors import ConfigError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Gradio starts from scripts and styles within its page, evaluates the templates of its HTML component, and plays and
# records from data: and blob: addresses; nothing comes from or goes to another host
POLICY = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self' data: blob:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in POLICY.items()),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Names:
    """What the page is called: by whoever is at this machine or in its network, and by a proxy in front of it.

    Args:
        host: what it is served from.
        proxied: names that a proxy is reached under; a request may come from pages under them too.
    """

    own: frozenset[str]
    any_address: bool
    proxied: frozenset[str]

    @classmethod
    def of(cls, host: str, proxied: Iterable[str] = ()) -> Names:
        """Of a page that is served from ``host``, under further names.

        Raises:
            ConfigError: a name that is none: it has a scheme, a port or a path.
        """
        proxied = [name.casefold() for name in proxied]
        if wrong := [name for name in proxied if hostname(name) != name.strip("[]")]:
            raise ConfigError(f"--name={wrong[0]!r} is not the name of a host; give one such as search.example.org")
        address = _address(host)
        everywhere = address is not None and address.is_unspecified
        own = {host.casefold()}
        if everywhere:
            own |= {*LOOPBACK, socket.gethostname().casefold(), socket.getfqdn().casefold()}
        elif host == "localhost" or (address is not None and address.is_loopback):
            own |= set(LOOPBACK)
        return cls(frozenset(own | set(proxied)), everywhere, frozenset(proxied))

    def allow(self, name: str | None) -> bool:
        """Whether a request may ask for the page under this name."""
        return name in self.own or (self.any_address and name is not None and _address(name) is not None)


class Guard:
    """An ASGI application in front of another: refuses foreign requests, and adds ``HEADERS`` to what is answered."""

    def __init__(self, app: ASGIApp, names: Names) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif not (problem := self.problem(Headers(scope=scope))):
            await self.app(scope, receive, guarded)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": problem[1]})
        else:
            await PlainTextResponse(problem[1] + "\n", problem[0])(scope, receive, guarded)

    def problem(self, headers: Headers) -> tuple[int, str] | None:
        """Status and message of a request that is refused."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.names.allow(hostname(hosts[0])):
            return 421, "This page is not served under that name. Start it with --name NAME to allow one."
        origin = headers.get("origin")
        if origin is not None and not self._own_page(origin, hosts[0]):
            return 403, "Pages of other sites may not ask this one."
        return None

    def _own_page(self, origin: str, host: str) -> bool:
        try:
            parts = urlsplit(origin)
            return parts.netloc.casefold() == host.casefold() or parts.hostname in self.names.proxied
        except ValueError:
            return False


def hostname(host: str) -> str | None:
    """The name in a ``Host`` header, in lower case, without port, brackets and closing dot; None where it is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # not a number: ValueError
    except ValueError:
        return None
    return parts.hostname.rstrip(".") if parts.hostname and parts.netloc == host and "@" not in host else None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
