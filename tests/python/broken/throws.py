from meshage import handler

SETTINGS = {}["missing"]


@handler
def handle(message):
    return SETTINGS
