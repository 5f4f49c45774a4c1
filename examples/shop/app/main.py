"""The application: lifespan, routers, and the page to look at."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from . import database
from .chat import Chat
from .routers import files, lab, live, newsletter, orders, products
from .settings import settings

PAGE = Path(__file__).with_name("index.html")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Prepares the database and keeps the chat running as long as the application does."""
    await run_in_threadpool(database.prepare)
    app.state.chat = Chat()
    relay = asyncio.create_task(app.state.chat.relay())
    try:
        yield
    finally:
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
        database.engine.dispose()


app = FastAPI(title=settings.title, lifespan=lifespan)
for part in (products, orders, newsletter, files, live, lab):
    app.include_router(part.router)


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """A page with the products, the event stream and the chat on it."""
    return FileResponse(PAGE, media_type="text/html")
