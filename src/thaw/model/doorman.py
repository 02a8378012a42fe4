"""Who may talk to the server: no page of another site, and nobody who only keeps it waiting."""

import asyncio
import ipaddress
import socket
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HEADER_SECONDS = 10  # until a request's header has come
CONNECTIONS = 32  # at once


class Doorman:
    """Refuses requests that a browser sends for another site.

    A page from elsewhere may send its visitor's browser here (`Origin` says so), or give its own
    name this machine's address after it was loaded (DNS rebinding; then `Host` is that name).

    Args:
        host: the address that the server listens on. On a loopback address only `localhost` and
            loopback addresses are this server; else, or where it is None, any address, names
            without a dot, and this machine's own.
    """

    def __init__(self, app: ASGIApp, host: str | None = None) -> None:
        self.app = app
        self.here = host is not None and _is_loopback(host)
        own = {socket.gethostname(), socket.getfqdn(), host or "localhost"}
        self.names = {"localhost"} if self.here else {"localhost", *(n.lower() for n in own)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 403."""
        if scope["type"] == "http" and (error := self._objection(Headers(scope=scope))):
            await JSONResponse({"error": error}, 403)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _objection(self, headers: Headers) -> str:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._knows(_name(host)):
            return f"Expected a request to this server by its own name or address, got {host!r}."
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return f"Expected a request from this server's own page, got one from {origin!r}."
        return ""

    def _knows(self, name: str) -> bool:
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return not self.here and bool(name) and ("." not in name or name.endswith(".local"))
        return address.is_loopback or not self.here


def _name(host: str) -> str:
    """`[::1]:8000` → `::1`; empty for what is no host."""
    try:
        return urlsplit("//" + host).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def run(application: Starlette, host: str, port: int) -> None:
    """Serve until Ctrl-C, by uvicorn."""
    import uvicorn
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol

    class Hasty(base):
        """Hangs up on who doesn't finish a header; uvicorn would wait forever."""

        late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            if self.late is None and (before is None or before.response_complete):
                self._wait()  # for another request's header on the same connection
            super().data_received(data)
            if self.cycle is not before:
                self._have()

        def connection_lost(self, exc: Exception | None) -> None:
            self._have()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self.late = self.loop.call_later(HEADER_SECONDS, self.transport.close)

        def _have(self) -> None:
            if self.late is not None:
                self.late.cancel()
                self.late = None

    uvicorn.run(
        application,
        host=host,
        port=port,
        http=Hasty,
        limit_concurrency=CONNECTIONS,
        log_level="warning",
    )
