from meshage import handler


@handler
def handle(message, context):
    return 1
