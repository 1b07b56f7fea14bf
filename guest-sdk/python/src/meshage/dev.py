"""`python -m meshage dev FILE…`: handlers as plain Python behind HTTP, loaded again when they change.

`/api/{stream}/{key}` as on a node; state is in memory, and outlives a reload.
"""

from __future__ import annotations

import contextvars
import heapq
import http.client
import http.server
import importlib
import itertools
import json
import linecache
import os
import queue
import sys
import threading
import time
import tomllib
import traceback
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from . import _handler
from . import http as outgoing
from ._backend import use
from ._failures import Failure, Internal, NotFound
from ._message import Message
from ._reply import Answer
from ._wsgi import respond
from .http import HttpError

# Status, headers and body.
Written = tuple[int, list[tuple[str, str]], bytes]


@dataclass
class Call:
    """One message while it runs: its writes are kept only if it is answered with a reply."""

    message: Message
    store: dict[str, bytes]
    writes: dict[str, bytes | None] = field(default_factory=dict)
    sends: list[tuple[Any, ...]] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)
    allowed_hosts: list[str] = field(default_factory=list)
    answers: queue.Queue[tuple[int, Answer | HttpError]] = field(default_factory=queue.Queue)


CURRENT: contextvars.ContextVar[Call] = contextvars.ContextVar("call")


class DevBackend:
    def __init__(self, server: Dev):
        self.server = server

    def log(self, level: str, text: str) -> None:
        call = CURRENT.get(None)
        print(
            f"{level.upper():5} {call.message.stream + '/' + call.message.partition_key if call else '-'}: {text}",
            file=sys.stderr,
            flush=True,
        )

    def call(self, stream: str, key: str, method: str, query: str, headers: list[Any], body: bytes) -> Answer:
        message = Message(stream, key, body, method, query, tuple(headers), str(uuid.uuid4()))
        # What the other one has under way is its own.
        status, found, content = contextvars.copy_context().run(self.server.handle, message)
        return Answer(status, dict(found), content)

    def send(self, *what: Any) -> None:
        CURRENT.get().sends.append(what)

    def cancel(self, name: str) -> None:
        CURRENT.get().cancels.append(name)

    def get(self, name: str) -> bytes | None:
        call = CURRENT.get()
        return call.writes[name] if name in call.writes else call.store.get(name)

    def set(self, name: str, value: bytes) -> None:
        if CURRENT.get().message.method == "GET":
            raise RuntimeError("a GET is a read: it cannot write (500 `read-only` on a node)")
        CURRENT.get().writes[name] = value

    def delete(self, name: str) -> None:
        self.set(name, None)  # type: ignore[arg-type]

    def scan(self, prefix: str, after: str, limit: int) -> list[tuple[str, bytes]]:
        call = CURRENT.get()
        both = {**call.store, **call.writes}
        names = sorted(
            (n for n in both if n.startswith(prefix) and n > after and both[n] is not None), key=str.encode
        )
        return [(n, both[n]) for n in names[:limit]]  # type: ignore[misc]

    def http_send(self, method: str, url: str, headers: list[Any], body: bytes) -> int:
        try:
            address, port = urlsplit(url), urlsplit(url).port
        except ValueError as error:
            raise HttpError("invalid", f"{url!r}: {error}") from None
        if address.scheme not in ("http", "https") or not address.hostname:
            raise HttpError("invalid", f"{url!r} is no address, such as https://api.example.com/path")
        host = f"{address.hostname}:{port or (443 if address.scheme == 'https' else 80)}"
        call, number = CURRENT.get(), next(self.server.numbers)
        if host not in call.allowed_hosts:
            raise HttpError("denied", f"the manifest does not allow {host} (allowed_hosts)")

        def exchange() -> None:
            answer: Answer | HttpError
            try:
                kind = (
                    http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
                )
                connection = kind(address.netloc, timeout=30)
                path = (address.path or "/") + (f"?{address.query}" if address.query else "")
                connection.request(method, path, body, dict(headers))
                reply = connection.getresponse()
                given = {name.lower(): value for name, value in reply.getheaders()}
                answer = Answer(reply.status, given, reply.read())
            except ValueError as error:
                answer = HttpError("invalid", str(error))
            except (OSError, http.client.HTTPException) as error:
                answer = HttpError("failed", str(error))
            call.answers.put((number, answer))

        threading.Thread(target=exchange, daemon=True).start()
        return number

    def http_receive(self, wait_ms: int | None) -> tuple[int, Answer | HttpError] | None:
        try:
            return CURRENT.get().answers.get(timeout=None if wait_ms is None else wait_ms / 1000)
        except queue.Empty:
            return None

    def http_abort(self, number: int) -> None: ...

    def clear(self) -> None:
        for name, _ in self.scan("", "", 1 << 30):
            self.delete(name)


def stream_of(file: Path) -> str:
    """The stream of a file: it is called like the file, or like its folder if that is `handler.py`."""
    name = file.stem if file.stem != "handler" else file.resolve().parent.name
    return name.replace("_", "-")


class Stream:
    """One file, what it imported of its own directory, and its manifest: beside it, or in `plugins`."""

    def __init__(self, name: str, file: Path):
        self.file = file.resolve()
        beside = self.file.with_name(f"{name}.toml")
        self.manifest_file = beside if beside.exists() else Path("plugins", f"{name}.toml").resolve()
        self.manifest: dict[str, Any] = {}
        self.registered: _handler.Registered | None = None
        self.error: str | None = None
        self.seen: dict[str, int] = {}

    def beside(self) -> dict[str, int]:
        """The sources beside it: a module that failed, or was not there, is in none of the lists of modules."""
        return {str(file): mtime(str(file)) for file in self.file.parent.glob("*.py")}

    def changed(self) -> bool:
        known = {*self.beside(), *self.seen}
        return not self.seen or any(mtime(file) != self.seen.get(file) for file in known)

    def load(self) -> None:
        root = str(self.file.parent)
        for name, module in list(sys.modules.items()):  # the user's modules, not those of packages
            at = getattr(module, "__file__", None) or ""
            if at.startswith(root + os.sep) and "site-packages" not in at and not name.startswith("meshage"):
                del sys.modules[name]
        importlib.invalidate_caches()
        linecache.checkcache()
        _handler.forget()
        # Another stream may have a module of this name.
        sys.modules.pop(self.file.stem, None)
        if sys.path[0] != root:
            sys.path.insert(0, root)
        self.registered, self.error = None, None
        try:
            self.manifest = {}
            if self.manifest_file.exists():
                self.manifest = tomllib.loads(self.manifest_file.read_text())
            os.environ.update(self.manifest.get("env", {}))
            importlib.import_module(self.file.stem)
            self.registered = _handler.registered
            self.error = (
                None
                if self.registered
                else f"{self.file.name} has no function with `@handler`, and no `wsgi` application"
            )
        except BaseException:
            self.error = traceback.format_exc()
        files = {
            m.__file__
            for m in list(sys.modules.values())
            if (getattr(m, "__file__", None) or "").startswith(root + os.sep)
        }
        self.seen = {
            f: mtime(f) for f in {*files, *self.beside(), str(self.file), str(self.manifest_file)} if f
        }


def mtime(file: str) -> int:
    try:
        return os.stat(file).st_mtime_ns
    except OSError:
        return 0


class Dev:
    def __init__(self, files: list[Path]):
        self.streams = {stream_of(f): Stream(stream_of(f), f) for f in files}
        self.stores: dict[tuple[str, str], dict[str, bytes]] = {}
        self.locks: dict[tuple[str, str], threading.RLock] = {}
        self.loading = threading.RLock()
        self.timers: list[tuple[float, int, Any, str | None, tuple[str, str]]] = []
        self.numbers = itertools.count()
        self.wake = threading.Condition()
        self.backend = DevBackend(self)
        use(self.backend)

    def refresh(self) -> None:
        with self.loading:
            for name, stream in self.streams.items():
                if stream.changed():
                    started = time.perf_counter()
                    first = not stream.seen
                    stream.load()
                    took = (time.perf_counter() - started) * 1000
                    print(
                        stream.error
                        or f"{'loaded' if first else 'loaded again'}: /api/{name}/KEY ({took:.0f} ms)",
                        file=sys.stderr,
                        flush=True,
                    )

    def visible(self, name: str, headers: Any) -> list[tuple[str, str]]:
        """The headers that a handler sees: `content-type`, and what the manifest names."""
        stream = self.streams.get(name)
        named = [header.lower() for header in (stream.manifest.get("headers", []) if stream else [])]
        every = "*" in named
        return [
            (header.lower(), value)
            for header, value in headers.items()
            if header.lower() in ("content-type", *named)
            or (every and header.lower() not in ("authorization", "cookie"))
        ]

    def is_wsgi(self, stream: Stream) -> bool:
        self.refresh()
        return stream.registered is not None and stream.registered.parameters == _handler.WSGI

    def respond(self, stream: Stream, request: Any, body: bytes) -> Written:
        """What a WSGI application answers a request below `/api/STREAM/KEY`."""
        _, _, name, key, *rest = request.path.split("/", 4)
        key, question, query = key.partition("?")
        headers = self.visible(name, request.headers)
        headers += [
            ("meshage-stream", name),
            ("meshage-partition-key", key),
            ("meshage-base-path", f"/api/{name}/{key}"),
        ]
        assert stream.registered is not None
        target = "/" + (rest[0] if rest else f"{question}{query}")
        host = request.headers.get("host", "")
        try:
            token = CURRENT.set(
                Call(Message(name, key), {}, allowed_hosts=stream.manifest.get("allowed_hosts", []))
            )
            try:
                outgoing.begin()
                return respond(stream.registered.function, request.command, target, host, headers, body)
            finally:
                CURRENT.reset(token)
        except Exception:
            traceback.print_exc()
            return 500, [("content-type", "text/plain")], b"the handler failed; the log says how\n"

    def handle(self, message: Message) -> Written:
        stream = self.streams.get(message.stream)
        if stream is None:
            raise NotFound(f"no file here offers the stream {message.stream!r}")
        if stream.error or stream.registered is None:
            raise Internal(stream.error or "not loaded")
        entity = (message.stream, message.partition_key)
        with self.loading:
            lock = self.locks.setdefault(entity, threading.RLock())
            store = self.stores.setdefault(entity, {})
        with lock:
            call = Call(message, store, allowed_hosts=stream.manifest.get("allowed_hosts", []))
            token = CURRENT.set(call)
            try:
                reply = _handler.run(message, stream.registered)
            finally:
                CURRENT.reset(token)
            for name, value in call.writes.items():
                store.pop(name, None) if value is None else store.__setitem__(name, value)
        with self.wake:
            for cancelled in call.cancels:
                self.timers = [t for t in self.timers if (t[3], t[4]) != (cancelled, entity)]
            for to, key, method, query, headers, body, delay_ms, name in call.sends:
                if name:
                    self.timers = [t for t in self.timers if (t[3], t[4]) != (name, entity)]
                    headers = [*headers, ("meshage-timer", name)]
                sent = Message(to, key, body, method, query, tuple(headers), str(uuid.uuid4()))
                self.timers.append(
                    (time.monotonic() + delay_ms / 1000, next(self.numbers), sent, name, entity)
                )
            heapq.heapify(self.timers)
            self.wake.notify()
        return reply

    def answer(self, message: Message) -> Written:
        try:
            self.refresh()
            return self.handle(message)
        except Failure as failure:
            status, kind, text = failure.status, failure.kind, str(failure)
        except BaseException:
            traceback.print_exc()
            status, kind, text = 500, "internal", "the handler failed; the log says how"
        body = {
            "type": f"urn:meshage:{kind}",
            "status": status,
            "detail": text,
            "stream": message.stream,
            "partitionKey": message.partition_key,
        }
        return status, [("content-type", "application/problem+json")], json.dumps(body).encode()

    def deliver(self) -> None:
        while True:
            with self.wake:
                while not self.timers or self.timers[0][0] > time.monotonic():
                    self.wake.wait(self.timers[0][0] - time.monotonic() if self.timers else None)
                message = heapq.heappop(self.timers)[2]
            if self.answer(message)[0] >= 500:
                with self.wake:
                    heapq.heappush(
                        self.timers, (time.monotonic() + 1, next(self.numbers), message, None, ("", ""))
                    )

    def watch(self) -> None:
        while True:
            time.sleep(0.2)
            self.refresh()


def serve(files: list[Path], port: int) -> int:
    sys.dont_write_bytecode = (
        True  # a `.pyc` knows its source by second and size: too coarse for who saves twice a second
    )
    dev = Dev(files)
    dev.refresh()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            path, _, query = self.path.partition("?")
            parts = path.split("/", 3)
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            stream = dev.streams.get(parts[2]) if len(parts) > 3 else None
            if stream is not None and dev.is_wsgi(stream):
                return self.write(dev.respond(stream, self, body))
            reply: Written
            if len(parts) != 4 or parts[1] != "api":
                reply = (404, [], b"not found\n")
            else:
                reply = dev.answer(
                    Message(
                        parts[2],
                        unquote(parts[3]),
                        body,
                        self.command,
                        query,
                        tuple(dev.visible(parts[2], self.headers)),
                        str(uuid.uuid4()),
                    )
                )
            self.write(reply)

        def write(self, reply: Written) -> None:
            status, headers, content = reply
            self.send_response(status)
            for name, value in headers:
                if name != "content-length":
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_HEAD = answer

        def log_message(self, *_: Any) -> None: ...

    threading.Thread(target=dev.deliver, daemon=True).start()
    threading.Thread(target=dev.watch, daemon=True).start()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print(f"http://127.0.0.1:{port}/api/…", file=sys.stderr, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    return 0
