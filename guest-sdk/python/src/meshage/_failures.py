"""Failures: what a handler raises to refuse a message. The text goes to the caller."""

from __future__ import annotations


class Failure(Exception):
    """A refusal. Raise one of the subclasses, which callers are told apart."""

    kind = "internal"
    status = 500


class Invalid(Failure):
    """The message itself is wrong: 400."""

    kind, status = "invalid", 400


class NotFound(Failure):
    """What it asks for does not exist: 404."""

    kind, status = "not-found", 404


class Conflict(Failure):
    """It does not fit the present state of the entity: 409."""

    kind, status = "conflict", 409


class Unavailable(Failure):
    """It cannot be done now, and nothing was done: 503."""

    kind, status = "unavailable", 503


class Internal(Failure):
    """The handler failed: 500."""


KINDS: dict[str, type[Failure]] = {
    failure.kind: failure for failure in (Invalid, NotFound, Conflict, Unavailable, Internal)
}
