"""Recordings over HTTP: their list, and their files by ids that are no paths."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from streamer.web.file_answers import file_answer
from streamer.web.problems import REFUSALS, Problem, problems
from streamer.web.recordings import CAPTIONS, LINES, MEDIA_TYPES, RecordedFile, RecordingIndex
from streamer.web.state_models import Recording

RecordingId = Annotated[str, Path(pattern="^[0-9a-f]{24}$")]
Source = Annotated[str | None, Query(max_length=200, description="of one source only")]
From = Annotated[datetime | None, Query(alias="from", description="that end later; without a zone it is UTC")]
To = Annotated[datetime | None, Query(alias="to", description="that begin earlier; without a zone it is UTC")]
Limit = Annotated[int, Query(ge=1, le=1000)]


def content(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """Returns the OpenAPI description of an answer that is a file, whole or in part."""
    schema = {"schema": {"type": "string", "format": "binary"}}
    described = dict.fromkeys(media_types, schema)
    return {
        200: {"content": described},
        206: {"content": described, "description": "a part"},
        **problems(404, 416),
    }


def utc(at: datetime | None) -> datetime | None:
    """Returns an aware time; one without a zone is UTC."""
    return at if at is None or at.tzinfo is not None else at.replace(tzinfo=UTC)


def recording_router(index: RecordingIndex) -> APIRouter:
    """Returns the routes of recordings."""
    router = APIRouter(tags=["recordings"], responses=REFUSALS)

    def file_of(recording_id: str) -> RecordedFile:
        found = index.get(recording_id)
        if found is None:
            raise Problem(404, "there is no recording of that id")
        return found

    @router.get("/api/recordings", summary="Recordings on disk, newest first")
    def recordings(source: Source = None, since: From = None, until: To = None, limit: Limit = 200) -> list[Recording]:
        return index.find(source=source, from_utc=utc(since), to_utc=utc(until), limit=limit)

    @router.get("/api/recordings/{recording_id}", summary="One recording", responses=problems(404))
    def recording(recording_id: RecordingId) -> Recording:
        return index.describe(file_of(recording_id))

    @router.get(
        "/api/recordings/{recording_id}/video",
        summary="The video, also while it is written",
        response_class=Response,
        responses=content(*MEDIA_TYPES.values()),
    )
    def video(recording_id: RecordingId, request: Request, download: bool = False) -> Response:
        file = file_of(recording_id)
        name = f"recording-{file.id}{file.path.suffix}" if download else None
        return file_answer(file.path, request, file.media_type, download=name)

    @router.get(
        "/api/recordings/{recording_id}/detections.jsonl",
        summary="What was detected, a line a frame",
        response_class=Response,
        responses=content("application/jsonl"),
    )
    def detections(recording_id: RecordingId, request: Request) -> Response:
        return file_answer(file_of(recording_id).beside(LINES), request, "application/jsonl")

    @router.get(
        "/api/recordings/{recording_id}/captions.vtt",
        summary="What was detected, as subtitles",
        response_class=Response,
        responses=content("text/vtt"),
    )
    def captions(recording_id: RecordingId, request: Request) -> Response:
        return file_answer(file_of(recording_id).beside(CAPTIONS), request, "text/vtt")

    return router
