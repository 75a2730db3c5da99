"""The one exception for what a user can mend."""


class InputError(ValueError):
    """A wrong configuration, missing data or an unusable file.

    Its message is one sentence or two: what was expected, what came, what to type. `launch.py`
    prints it without a traceback and exits with code 2.
    """
