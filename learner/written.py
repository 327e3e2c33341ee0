"""What learner ranks say of a checkpoint's files that they have written."""

from __future__ import annotations

Written = dict[str, tuple[int, str]]  # file: bytes, SHA-256


class SaveLost(RuntimeError):
    """A rank was asked for a save that it has not begun: it has been started anew since."""
