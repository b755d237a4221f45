"""The base of all errors that a user can mend: the message is one sentence of what came and what to do."""


class AnystrokeError(ValueError):
    """Something given cannot be used; the command prints the message and exits with 2."""


class OptionError(AnystrokeError):
    """An option is out of its range."""
