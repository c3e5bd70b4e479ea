memory = None
