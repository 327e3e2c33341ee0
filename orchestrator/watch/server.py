"""The live page's server: standard library only, answers from memory and from the run folders, to this machine alone.

In: an index of runs, an address. Out: pages over HTTP. Must not know: how runs are read, how pages are drawn.

It serves GET alone and writes nothing. A request whose Host is no name of this server is refused, so that no page of
the web can reach it under a name of its own. The page's own policy (CSP) lets it load from this server only.
"""

from __future__ import annotations

import errno
import functools
import gzip
import ipaddress
import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from orchestrator.watch import views
from orchestrator.watch.answers import Answers, Wanted
from orchestrator.watch.charts import charts
from orchestrator.watch.index import Followed, Index
from rollout.base.errors import BadInput

HTML, JSON, SCRIPT = "text/html; charset=utf-8", "application/json", "text/javascript; charset=utf-8"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
SMALLEST = 2048  # bytes that are worth compressing
MOST_STEPS = 50  # of a timeline

Query = dict[str, list[str]]


class NotFound(Exception):
    """There is no such page or run."""


class Site:
    """Everything the page asks for, by path. Thread-safe."""

    def __init__(self, index: Index):
        self.index, self.templates = index, views.templates()
        self._answers: dict[Followed, Answers] = {}
        self._lock = threading.Lock()
        self.routes: dict[str, Callable[[Query], tuple[str, str | bytes]]] = {
            "/": self._page,
            "/page.js": lambda query: (SCRIPT, self._rendered("page.js.jinja")),
            "/page.css": lambda query: ("text/css; charset=utf-8", self._rendered("watch.css.jinja")),
            "/plotly.js": lambda query: (SCRIPT, plotly()),
            "/api/runs": self._runs,
            "/api/charts": self._charts,
            "/api/overview": self._overview,
            "/api/timeline": self._timeline,
            "/api/choices": self._choices,
            "/api/answers": self._found_answers,
            "/report": self._report,
        }

    def _rendered(self, name: str, **values: Any) -> str:
        return self.templates.get_template(name).render(**values)

    def _page(self, query: Query) -> tuple[str, str]:
        return HTML, self._rendered("watch.html.jinja", folders=self.index.folders)

    def _runs(self, query: Query) -> tuple[str, str]:
        share = self.index.refresh()
        now = views.now()
        runs = views.run_list(self.index, now)
        return JSON, json.dumps({"runs": runs, "version": self.index.version, "read": share, "now": now})

    def _charts(self, query: Query) -> tuple[str, str]:
        with self.index.lock:
            version = self.index.version
            made = charts(self._chosen(query), int(_one(query, "since") or -1))
        return JSON, json.dumps(made | {"version": version}, separators=(",", ":"))

    def _overview(self, query: Query) -> tuple[str, str]:
        with self.index.lock:
            return HTML, views.overview(self.templates, self._chosen(query), views.now())

    def _timeline(self, query: Query) -> tuple[str, str]:
        steps = min(MOST_STEPS, max(1, int(_one(query, "steps") or 5)))
        return HTML, views.timeline(self.templates, self._one_run(query), steps)

    def _choices(self, query: Query) -> tuple[str, str]:
        """What a run's answers can be filtered by."""
        run = self._one_run(query)
        with self._lock:
            found = self._answers_of(run)
            found.refresh()
            choices = {"level": found.levels, "mode": found.modes, "outcome": found.outcomes}
            return JSON, json.dumps(choices | {"count": len(found.places)})

    def _found_answers(self, query: Query) -> tuple[str, str]:
        run, (first, last) = self._one_run(query), (_one(query, "from"), _one(query, "to"))
        wanted = Wanted(
            first_step=int(first) if first else None,
            last_step=int(last) if last else None,
            level=_one(query, "level"),
            mode=_one(query, "mode"),
            outcome=_one(query, "outcome"),
            both_modes=bool(_one(query, "both")),
        )
        with self._lock:
            page = int(_one(query, "page") or 0)
            return HTML, views.answers(self.templates, run, self._answers_of(run), wanted, page)

    def _answers_of(self, run: Followed) -> Answers:
        return self._answers.setdefault(run, Answers(run.folder / "samples.jsonl"))

    def _report(self, query: Query) -> tuple[str, bytes]:
        try:
            return HTML, (self._one_run(query).folder / "report.html").read_bytes()
        except FileNotFoundError:
            raise NotFound("this run has no report yet") from None

    def _chosen(self, query: Query) -> list[Followed]:
        """The runs named in the query, in its order; those that have gone are left out."""
        return [run for name in query.get("run", []) if (run := self.index.find(name)) is not None]

    def _one_run(self, query: Query) -> Followed:
        found = self._chosen(query)
        if not found:
            raise NotFound(f"there is no run {_one(query, 'run') or ''}")
        return found[0]


def _one(query: Query, key: str) -> str | None:
    """The first value of a key; "" counts as none."""
    return next((value for value in query.get(key, []) if value), None)


@functools.cache
def plotly() -> bytes:
    """The chart library, from the installed package."""
    return files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()


@functools.cache
def compressed_plotly() -> bytes:
    return gzip.compress(plotly(), 6)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        try:
            if not self.server.knows(self.headers.get("Host", "")):
                raise NotFound("this is no name of this server")
            route = self.server.site.routes.get(parts.path)
            if route is None:
                raise NotFound(f"there is no page {parts.path}")
            kind, body = route(parse_qs(parts.query))
            self._send(HTTPStatus.OK, kind, body.encode() if isinstance(body, str) else body, parts.path)
        except NotFound as error:
            self._send(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", str(error).encode(), "")
        except ValueError as error:  # a number that is none
            self._send(HTTPStatus.BAD_REQUEST, "text/plain; charset=utf-8", str(error).encode(), "")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except OSError as error:  # of a run's files; the page says so, and asks again
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", str(error).encode(), "")

    def _send(self, status: HTTPStatus, kind: str, body: bytes, path: str) -> None:
        self.send_response(status)
        fixed = path == "/plotly.js"
        if len(body) > SMALLEST and "gzip" in self.headers.get("Accept-Encoding", "") and path:
            body = compressed_plotly() if fixed else gzip.compress(body, 1)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=3600" if fixed else "no-store")
        self.send_header("Content-Security-Policy", REPORT_POLICY if path == "/report" else POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each refresh would hide what matters."""


class Server(ThreadingHTTPServer):
    """Listens at once; `serve_forever` answers."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, index: Index, host: str, port: int):
        """Raises BadInput when the port is taken, naming one that is free, when it is none, and when the host is no
        address of here."""
        if not 0 <= port < 65536:
            raise BadInput(f"--port must be from 0 (any that is free) to 65535, got {port}")
        self.site = Site(index)
        self.host = host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise BadInput(f"port {port} of {host} is taken; free: --port {free_port(host, port)}") from None
            raise BadInput(f"cannot listen at {host}, port {port}: {error.strerror or error}") from None

    @property
    def address(self) -> str:
        """The host as an address holds it."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.server_port}"

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return _is_loopback(self.host)

    def knows(self, host: str) -> bool:
        """Whether a request's Host header names this server: on loopback, by a name of loopback."""
        return not self.local or _is_loopback(urlsplit(f"//{host}").hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name
        return False


def free_port(host: str, port: int) -> int:
    """The next port after `port` that is free, else any."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [*range(port + 1, min(port + 50, 65536)), 0]:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, candidate))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    return 0
