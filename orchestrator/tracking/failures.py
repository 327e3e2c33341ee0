"""What a part of tracking could not do: counted, and the first time said. None of it ends a run.

In: failures in words. Out: their number and a line, each for whoever asks next. Must not know: which part it is.
"""

from __future__ import annotations


class Failures:
    def __init__(self, name: str):
        """name: the label `tracker` of tracking/failures/{tracker}."""
        self.name = name
        self.count = 0  # so far
        self._told = 0
        self._unsaid: str | None = None

    def add(self, text: str) -> None:
        """text: what failed, why, and what follows for the run."""
        if not self.count:
            self._unsaid = text
        self.count += 1

    def news(self) -> tuple[int, str | None]:
        """Failures since the last call, and the text of the first one ever."""
        new, self._told = self.count - self._told, self.count
        unsaid, self._unsaid = self._unsaid, None
        return new, unsaid


def in_words(error: BaseException) -> str:
    """On one line. Example: "ConnectionError: nobody listens"."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
