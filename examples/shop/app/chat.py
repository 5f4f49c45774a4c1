"""A chat whose rooms span all worker processes: lines travel through the database.

Each worker relays new lines to the sockets it holds; the routes that open those sockets are left
to `routers.live`.
"""

import asyncio
from collections import defaultdict

from fastapi import WebSocket, WebSocketDisconnect
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from .database import ChatMessage, engine

LOOK_EVERY_SECONDS = 0.05


class Chat:
    """The sockets of one worker, by room."""

    def __init__(self) -> None:
        self._rooms: dict[str, set[WebSocket]] = defaultdict(set)
        self._seen = 0

    async def join(self, room: str, socket: WebSocket) -> None:
        """Adds a socket to a room; from now on it gets every new line."""
        if not any(self._rooms.values()):
            self._seen = await run_in_threadpool(self._newest)
        self._rooms[room].add(socket)

    def leave(self, room: str, socket: WebSocket) -> None:
        """Takes a socket out of a room."""
        self._rooms[room].discard(socket)
        if not self._rooms[room]:
            del self._rooms[room]

    async def say(self, room: str, author: str, text: str) -> None:
        """Says a line to everybody in a room, whichever worker holds their sockets."""
        await run_in_threadpool(self._store, room, author, text)

    async def relay(self) -> None:
        """Hands new lines to this worker's sockets, for as long as the worker lives."""
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            if any(self._rooms.values()):
                for room, author, text in await run_in_threadpool(self._new_lines):
                    await self._send(room, {"author": author, "text": text})

    async def _send(self, room: str, line: dict[str, str]) -> None:
        for socket in list(self._rooms.get(room, ())):
            try:
                await socket.send_json(line)
            except (WebSocketDisconnect, RuntimeError, OSError):
                # Its own route notices too, and takes it out of the room.
                continue

    @staticmethod
    def _newest() -> int:
        with Session(engine) as session:
            return session.scalar(select(func.max(ChatMessage.id))) or 0

    @staticmethod
    def _store(room: str, author: str, text: str) -> None:
        with Session(engine) as session:
            session.add(ChatMessage(room=room, author=author, text=text))
            session.commit()

    def _new_lines(self) -> list[tuple[str, str, str]]:
        query = select(ChatMessage).where(ChatMessage.id > self._seen).order_by(ChatMessage.id)
        with Session(engine) as session:
            lines = session.scalars(query).all()
        if lines:
            self._seen = lines[-1].id
        return [(line.room, line.author, line.text) for line in lines]
