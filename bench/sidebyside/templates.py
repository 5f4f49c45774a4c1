"""Configurations of peers: `configs/` has them with reasons, this fills in `@names@`."""

from __future__ import annotations

import re
from pathlib import Path

from sidebyside.places import CONFIGS, NUMBERS, RUN


def folder(name: str) -> Path:
    """A new folder for one deployment."""
    made = RUN / f"{name}-{next(NUMBERS)}"
    made.mkdir(parents=True)
    return made


def fill(template: str, into: Path, **values: object) -> Path:
    """Writes the template with its places filled in; every place must be."""
    text = (CONFIGS / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    left = re.search(r"(?<!\w)@[a-z]+@", text)
    if left:
        raise ValueError(f"{template}: nothing for {left[0]}")
    path = into / template
    path.write_text(text)
    return path
