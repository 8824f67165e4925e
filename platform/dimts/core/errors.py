"""What a user can do something about. A job prints such an error as one line and stops."""

from dimts.core.masking import mask_secrets
from dimts.core.printable import printable


class UserError(Exception):
    """A mistake in the input or the settings; the message is one line that says what to do.

    Wherever it is printed or written, secrets in it are masked, and what would end its line or
    drive a terminal is shown instead.
    """

    def __str__(self) -> str:
        return printable(mask_secrets(super().__str__()))


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, out of range or without effect."""


class Diverged(UserError):
    """A training whose loss was not finite too often; other settings may do better."""
