"""What a user can get wrong, as exceptions whose message is one line: what, where, what to do."""


class InputError(ValueError):
    """Report a mistake in what the user gave; the command line prints it and exits with code 2."""


class VideoError(InputError):
    """Report a video that cannot be opened or holds nothing that can be decoded."""


class VideoWarning(UserWarning):
    """Warn that a part of a video could not be read and the result rests on the rest."""
