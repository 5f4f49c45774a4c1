"""The database: engine, tables and sessions. What the rows mean is left to the routers.

Several worker processes share one SQLite file, so it runs in WAL mode, waits for locks, and its
tables are created under a file lock: only one of the workers that start together does it.
"""

import fcntl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends
from sqlalchemy import Engine, ForeignKey, create_engine, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from .settings import settings


def now() -> datetime:
    """The current time, in UTC."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """The base of all tables."""


class Product(Base):
    """Something to buy."""

    __tablename__ = "products"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    price_cents: Mapped[int]
    description: Mapped[str] = mapped_column(default="")


class Order(Base):
    """One accepted `POST /orders`.

    `key` is deliberately not unique: were a request run twice, both rows would be here to see.
    """

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(index=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"))
    quantity: Mapped[int]
    worker: Mapped[int]
    created: Mapped[datetime] = mapped_column(default=now)


class Upload(Base):
    """A file that somebody sent; its bytes lie in the uploads folder under its id."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    media_type: Mapped[str]
    size: Mapped[int]
    sha256: Mapped[str]


class Subscription(Base):
    """A newsletter subscription, confirmed by a background task."""

    __tablename__ = "subscriptions"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    confirmed: Mapped[bool] = mapped_column(default=False)


class ChatMessage(Base):
    """A line of chat. Rooms span all workers because they meet here."""

    __tablename__ = "chat_messages"

    id: Mapped[int] = mapped_column(primary_key=True)
    room: Mapped[str] = mapped_column(index=True)
    author: Mapped[str]
    text: Mapped[str]


class Sighting(Base):
    """Something that a lab endpoint saw happen, noted under the key its client chose."""

    __tablename__ = "sightings"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(index=True)
    what: Mapped[str]


def _connect() -> Engine:
    engine = create_engine(settings.database_url, connect_args={"timeout": 20}, pool_size=10)

    @event.listens_for(engine, "connect")
    def _tune(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA busy_timeout = 20000")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    return engine


engine = _connect()

_FIRST_PRODUCTS = [
    ("Ash evener", 18900, "A straight bar of ash for a team of two."),
    ("Singletree", 5900, "One to each horse."),
    ("Doubletree, steel", 24900, "For those who plough stones."),
    ("Collar", 15900, "Leather, straw-filled, measured to the horse."),
    ("Trace chain", 3900, "Two metres, galvanised."),
]


def prepare() -> None:
    """Creates folders, tables and the first products, once over all workers."""
    settings.uploads.mkdir(parents=True, exist_ok=True)
    with (settings.data / "prepare.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            if session.scalar(select(Product.id).limit(1)) is None:
                session.add_all(
                    Product(name=name, price_cents=cents, description=text)
                    for name, cents, text in _FIRST_PRODUCTS
                )
                session.commit()


def _session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(_session)]
