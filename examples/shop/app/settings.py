"""Where the shop keeps its data and what it is called; read once from the environment."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The settings of one process."""

    title: str
    data: Path

    @property
    def database_url(self) -> str:
        """The SQLAlchemy address of the database file."""
        return f"sqlite:///{self.data / 'shop.sqlite3'}"

    @property
    def uploads(self) -> Path:
        """The folder that uploaded files are kept in."""
        return self.data / "uploads"


def read() -> Settings:
    """Settings from `SHOP_TITLE` and `SHOP_DATA`; the data default to a folder of one's own."""
    default = Path(tempfile.gettempdir()) / f"evener-shop-{os.getuid()}"
    return Settings(
        title=os.environ.get("SHOP_TITLE", "The Evener Shop"),
        data=Path(os.environ.get("SHOP_DATA") or default),
    )


settings = read()
