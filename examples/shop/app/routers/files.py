"""Upload and download of files of any size, in pieces."""

import hashlib
import uuid

from fastapi import APIRouter, HTTPException, UploadFile, status
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict

from ..database import SessionDep, Upload
from ..settings import settings

router = APIRouter(prefix="/files", tags=["files"])

PIECE_BYTES = 256 * 1024


class UploadOut(BaseModel):
    """What is known about an uploaded file."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    media_type: str
    size: int
    sha256: str


@router.post("", response_model=UploadOut, status_code=status.HTTP_201_CREATED)
def upload(file: UploadFile, session: SessionDep) -> Upload:
    """Keeps a file and tells its size and digest."""
    identity = uuid.uuid4().hex
    digest = hashlib.sha256()
    size = 0
    with (settings.uploads / identity).open("wb") as kept:
        while piece := file.file.read(PIECE_BYTES):
            kept.write(piece)
            digest.update(piece)
            size += len(piece)
    row = Upload(
        id=identity,
        name=file.filename or "unnamed",
        media_type=file.content_type or "application/octet-stream",
        size=size,
        sha256=digest.hexdigest(),
    )
    session.add(row)
    session.commit()
    return row


@router.get("/{identity}")
def download(identity: str, session: SessionDep) -> FileResponse:
    """The bytes of an uploaded file."""
    row = session.get(Upload, identity)
    if row is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "There is no such file.")
    return FileResponse(settings.uploads / row.id, media_type=row.media_type, filename=row.name)
