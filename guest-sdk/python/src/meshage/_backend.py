"""What a node does for a handler: `_component` has it in a component, `dev` on a developer's machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ._reply import Answer

if TYPE_CHECKING:
    from .http import HttpError

Headers = list[tuple[str, str]]


class Backend(Protocol):
    def log(self, level: str, text: str) -> None: ...
    def call(
        self, stream: str, key: str, method: str, query: str, headers: Headers, body: bytes
    ) -> Answer: ...
    def send(
        self,
        stream: str,
        key: str,
        method: str,
        query: str,
        headers: Headers,
        body: bytes,
        delay_ms: int,
        name: str | None,
    ) -> None: ...
    def cancel(self, name: str) -> None: ...
    def get(self, name: str) -> bytes | None: ...
    def set(self, name: str, value: bytes) -> None: ...
    def delete(self, name: str) -> None: ...
    def scan(self, prefix: str, after: str, limit: int) -> list[tuple[str, bytes]]: ...
    def clear(self) -> None: ...
    def http_send(self, method: str, url: str, headers: Headers, body: bytes) -> int: ...
    def http_receive(self, wait_ms: int | None) -> tuple[int, Answer | HttpError] | None: ...
    def http_abort(self, number: int) -> None: ...


class _Nobody:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"`{name}` needs a message: modules are imported when the component is built")


_backend: Backend = _Nobody()


def use(backend: Backend) -> None:
    global _backend
    _backend = backend


def backend() -> Backend:
    return _backend
