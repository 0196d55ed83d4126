"""HTTP servers on loopback: the company's intranet, and the one that plays the attacker's."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

_MAX_BODY: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Received:
    """One request that arrived: its path, and the bytes of its body."""

    path: str
    body: bytes


class Listener:
    """A real HTTP server on a free port of 127.0.0.1 that takes every POST and remembers it. Use it as a context manager."""

    def __init__(self) -> None:
        taken: list[Received] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = min(int(self.headers.get("Content-Length") or 0), _MAX_BODY)
                taken.append(Received(self.path, self.rfile.read(length)))
                self.send_response(201)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: what arrives is shown elsewhere."""

        self._taken = taken
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def received(self) -> tuple[Received, ...]:
        """What arrived since it was last taken."""
        return tuple(self._taken)

    def size_at(self, url: str) -> int:
        """How many bytes arrived under this URL."""
        return sum(len(one.body) for one in self.received if self.url + one.path == url)

    def take(self) -> tuple[Received, ...]:
        """What arrived; from here on it counts from nothing."""
        taken = self.received
        del self._taken[: len(taken)]
        return taken

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
