from meshage import handler


@handler
def handle(message):
    return {"echoed": message.merged()}
