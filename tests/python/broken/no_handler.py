def handle(message):
    return 1
