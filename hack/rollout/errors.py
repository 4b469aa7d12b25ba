"""What stops a command: the message is all a person needs to see."""

from __future__ import annotations


class RolloutError(Exception):
    """The message names what is wrong and what to do."""
