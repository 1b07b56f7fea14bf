"""Handlers for meshage in Python.

from meshage import handler

@handler
def handle(message):
    return {"echoed": message.merged()}
"""

from ._entity import Entity, Mesh
from ._failures import Conflict, Failure, Internal, Invalid, NotFound, Unavailable
from ._handler import handler
from ._message import Message
from ._reply import Reply
from ._wsgi import wsgi

__all__ = [
    "Conflict",
    "Entity",
    "Failure",
    "Internal",
    "Invalid",
    "Mesh",
    "Message",
    "NotFound",
    "Reply",
    "Unavailable",
    "handler",
    "wsgi",
]
