"""An object that a file must not be able to load."""


class Evil:
    """An object that writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return open, (self.target, "w")
