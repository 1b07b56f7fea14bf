from meshage import handler

@handler
def handle(message:
    return 1
