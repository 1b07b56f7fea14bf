from meshage import handler


@handler
def handle(message):
    import a_package_that_is_not_there

    return a_package_that_is_not_there
