"""Reads a file of environment variables: `NAME=value` lines, as docker and dotenv write them.

Variables that are set already keep their value, as with uvicorn's `--env-file`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from evener.application import CannotStart

LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*)")
ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def load(path: str) -> None:
    """Sets what the file says."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStart(f"cannot read the environment file {path}: {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = LINE.fullmatch(stripped)
        if match is None:
            raise CannotStart(f"{path}, line {number}: not of the form NAME=value")
        name, value = match.groups()
        os.environ.setdefault(name, _value(value, path, number))


def _value(text: str, path: str, number: int) -> str:
    quote = text[:1]
    if quote not in {'"', "'"}:
        return text.split(" #", 1)[0].rstrip()
    end = _closing(text, quote)
    if end is None or text[end + 1 :].strip().partition("#")[0]:
        raise CannotStart(f"{path}, line {number}: the quotes do not match")
    inner = text[1:end]
    if quote == "'":
        return inner
    return re.sub(r"\\(.)", lambda match: ESCAPES.get(match[1], match[1]), inner)


def _closing(text: str, quote: str) -> int | None:
    """Where the quoted value ends; in double quotes a backslash protects what follows it."""
    at = 1
    while at < len(text):
        if text[at] == "\\" and quote == '"':
            at += 1
        elif text[at] == quote:
            return at
        at += 1
    return None
