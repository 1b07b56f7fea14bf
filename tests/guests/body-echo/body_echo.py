"""For benchmarks: answers a message with its body."""

from wit_world import exports
from wit_world.imports.types import Message, Reply


class MessageHandler(exports.MessageHandler):
    def handle(self, message: Message) -> Reply:
        return Reply(status=200, headers=[("content-type", "application/octet-stream")], body=message.body)
