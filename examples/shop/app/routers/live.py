"""What stays open: a stream of server-sent events and the chat's WebSockets."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from ..chat import Chat

router = APIRouter(prefix="/live", tags=["live"])


@router.get("/events")
async def events(
    request: Request,
    count: Annotated[int, Query(ge=0)] = 0,
    interval: Annotated[float, Query(ge=0, le=60)] = 1.0,
) -> StreamingResponse:
    """Ticks as server-sent events: `count` of them (0: without end), `interval` seconds apart."""

    async def ticks() -> AsyncIterator[str]:
        number = 0
        while count == 0 or number < count:
            if number:
                await asyncio.sleep(interval)
            number += 1
            data = json.dumps({"number": number, "worker": os.getpid()})
            yield f"id: {number}\nevent: tick\ndata: {data}\n\n"

    return StreamingResponse(
        ticks(), media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


@router.websocket("/chat/{room}")
async def chat(socket: WebSocket, room: str, author: str = "somebody") -> None:
    """A seat in a chat room: text goes in, lines of the room come out as JSON."""
    rooms: Chat = socket.app.state.chat
    await socket.accept()
    await rooms.join(room, socket)
    try:
        await socket.send_json({"room": room, "worker": os.getpid()})
        while True:
            await rooms.say(room, author, await socket.receive_text())
    except WebSocketDisconnect:
        pass
    finally:
        rooms.leave(room, socket)


@router.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    """Sends back every message as it came, text as text and bytes as bytes."""
    offered = socket.scope.get("subprotocols") or [None]
    await socket.accept(subprotocol=offered[0])
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if message.get("text") is not None:
            await socket.send_text(message["text"])
        else:
            await socket.send_bytes(message["bytes"])
