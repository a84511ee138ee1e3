"""What no file may do."""


class Evil:
    """Writes a file when it is unpickled by anyone who trusts it."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return open, (self.target, "w")
