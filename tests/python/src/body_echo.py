"""For benchmarks: answers a message with its body."""

from meshage import handler


@handler
def echo(message):
    return message.body
