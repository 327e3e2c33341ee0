"""Secrets in text: replaced by *** before it is printed or written.

In: text; the words of a command line; this process's environment. Out: the same text without secrets. Must not know:
what the text is, where it goes. Standard library only.

A secret is the value of a word like hf_token=... or --api-key ..., of a parameter of that kind in a URL, the password
in a URL, and the value of an environment variable with such a name (HF_TOKEN, AWS_SECRET_ACCESS_KEY), wherever it
stands.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO, cast
from urllib.parse import quote

MASK = "***"
LEAST = 8  # characters of an environment variable's value: shorter ones are words like "none", which text is full of
_NAME = (  # but for model.think_token and its kind
    r"(?<!think_)(?<!think_end_)(?<!short_)"
    r"(?:token|(?<=[_.\-])key|apikey|secret|password|passwd|pwd|passphrase|credentials?|signature)"
)
_SECRET = re.compile(rf"(?:.*[_.\-])?{_NAME}", re.IGNORECASE)  # a whole name
_VALUE = r"""(?!\$\{)(?:'[^']*'|"[^"]*"|[^\s'"&;,)}]+)"""  # ${...} only names the place of a secret
_WORD = re.compile(rf"""((?:^|(?<=[\s'"?&;,{{(]))[+~]*(?:[\w.\-]*[_.\-])?{_NAME}=){_VALUE}""", re.IGNORECASE)
_URL = re.compile(r"""(\w[\w+.\-]{0,30}://[^\s/?#:@'"]*:)(?!\$\{)[^\s/?#'"]+(?=@)""")
_known: set[str] = set()


def mask(text: str) -> str:
    """`text` without secrets."""
    for secret in sorted({*_known, *_of_environment()}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _WORD.sub(rf"\1{MASK}", _URL.sub(rf"\1{MASK}", text))


def masked(value: Any) -> Any:
    """The same of every text in a JSON-like value."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {key: _masked_under(str(key), one) for key, one in value.items()}
    return [masked(one) for one in value] if isinstance(value, (list, tuple)) else value


def _masked_under(key: str, value: Any) -> Any:
    return MASK if isinstance(value, str) and value and _SECRET.fullmatch(key) else masked(value)


def learn(words: Iterable[str]) -> None:
    """Remember the secrets on a command line, to know them in whatever else is said of them."""
    for word in words:
        name, equals, value = word.partition("=")
        if equals and _SECRET.fullmatch(name.lstrip("+~-")):
            remember(value.strip("'\""))
        for found in _URL.finditer(word):
            remember(found[0].removeprefix(found[1]))


def remember(secret: str) -> None:
    """A secret from anywhere else."""
    if len(secret) >= 4:
        _known.update((secret, quote(secret, safe="")))


def mask_output() -> None:
    """Whatever this process prints from now on goes through `mask`."""
    sys.stdout, sys.stderr = (cast(TextIO, _Masked(stream)) for stream in (sys.stdout, sys.stderr))


class _Masked:
    """A text stream whose `write` masks; all else is the stream's own."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(mask(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _of_environment() -> set[str]:
    """(PWD is the shell's working directory.)"""
    secret = {name for name in os.environ if _SECRET.fullmatch(name)} - {"PWD"}
    return {os.environ[name] for name in secret if len(os.environ[name]) >= LEAST}
