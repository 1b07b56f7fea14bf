"""HTTP requests to the hosts that the manifest allows (`allowed_hosts`).

from meshage import http

answer = http.request("POST", "https://api.example.com/orders", {"item": "tea"}, timeout=2)
both = await asyncio.gather(http.fetch("GET", first), http.fetch("GET", second))
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from ._backend import backend
from ._reply import Answer, content

__all__ = ["HttpError", "fetch", "request"]


class HttpError(OSError):
    """There is no answer: `kind` is `invalid` (no such request can be sent), `denied` (the manifest does not name the
    host) or `failed`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


Told = Callable[[Answer | HttpError], None]

# What is told of the answers to one message's requests, by the numbers of the requests.
_waiting: ContextVar[dict[int, Told]] = ContextVar("waiting")


def request(
    method: str,
    url: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Answer:
    """Sends a request, and waits for its answer, whatever its status: redirects are not followed.

    The body is JSON, but for text and bytes; each body has at most 16 MiB. Raises `HttpError`, or `TimeoutError` after
    `timeout` seconds. A request is no part of what the handler commits.
    """
    answers: list[Answer | HttpError] = []
    number = _send(method, url, body, headers, answers.append)
    until = None if timeout is None else time.monotonic() + timeout
    while not answers:
        left = None if until is None else max(until - time.monotonic(), 0)
        if not receive(left) and left is not None:
            _abort(number)
            raise TimeoutError(f"{method} {url}: no answer within {timeout} seconds")
    if isinstance(answers[0], HttpError):
        raise answers[0]
    return answers[0]


async def fetch(
    method: str, url: str, body: Any = None, *, headers: Mapping[str, str] | None = None
) -> Answer:
    """As `request`; others may be under way meanwhile. `asyncio.timeout` ends it."""
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def told(answer: Answer | HttpError) -> None:
        if future.done():
            return
        if isinstance(answer, HttpError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    number = _send(method, url, body, headers, told)
    try:
        return await future
    finally:
        if number in _waiting.get():
            _abort(number)


def _send(
    method: str,
    url: str,
    body: Any,
    headers: Mapping[str, str] | None,
    told: Told,
) -> int:
    kind, data = content(body)
    given = [(name.lower(), str(value)) for name, value in (headers or {}).items()]
    if kind is not None and all(name != "content-type" for name, _ in given):
        given.insert(0, ("content-type", kind))
    try:
        number = backend().http_send(method.upper(), url, given, data)
    except HttpError as error:
        raise HttpError(error.kind, f"{method} {url}: {error}") from None
    _waiting.get()[number] = told
    return number


def is_waiting() -> bool:
    return bool(_waiting.get({}))


def receive(wait: float | None) -> bool:
    """Takes the next answer, if there is one within so many seconds."""
    received = backend().http_receive(None if wait is None else math.ceil(wait * 1000))
    if received is None:
        return False
    number, answer = received
    told = _waiting.get().pop(number, None)
    if told is not None:
        told(answer)
    return True


def _abort(number: int) -> None:
    del _waiting.get()[number]
    backend().http_abort(number)


def begin() -> None:
    """Begins a message: what an earlier one left under way ended with it."""
    _waiting.set({})
