"""Clips over HTTP: their list, their files by ids that are no paths, and their deletion."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from streamer.web.clips import ClipStore, FoundClip, describe
from streamer.web.file_answers import file_answer
from streamer.web.problems import REFUSALS, Problem, problems
from streamer.web.recording_routes import From, Limit, Source, To, content, utc
from streamer.web.state_models import ClipInfo, Done

ClipId = Annotated[str, Path(pattern="^[0-9a-f]{8}[0-9A-Za-z_-]{2,600}$")]


def clip_router(store: ClipStore) -> APIRouter:
    """Returns the routes of clips."""
    router = APIRouter(tags=["clips"], responses=REFUSALS)

    def clip_of(clip_id: str) -> FoundClip:
        found = store.get(clip_id)
        if found is None:
            raise Problem(404, "there is no clip of that id")
        return found

    def answer(path: FilePath | None, request: Request, media_type: str) -> Response:
        if path is None:
            raise Problem(404, "the clip has no such file")
        return file_answer(path, request, media_type)

    @router.get("/api/clips", summary="Clips, newest first", responses=problems(409))
    def clips(
        source: Source = None,
        label: Annotated[str | None, Query(max_length=200, description="a class that an event is about")] = None,
        since: From = None,
        until: To = None,
        limit: Limit = 100,
    ) -> list[ClipInfo]:
        return store.find(source=source, label=label, from_utc=utc(since), to_utc=utc(until), limit=limit)

    @router.get("/api/clips/{clip_id}", summary="One clip", responses=problems(404, 409))
    def clip(clip_id: ClipId) -> ClipInfo:
        return describe(clip_of(clip_id))

    @router.delete("/api/clips/{clip_id}", summary="Deletes a clip and its files", responses=problems(404, 409))
    def delete(clip_id: ClipId) -> Done:
        found = clip_of(clip_id)
        if not found.owner.delete(found.clip.id):
            raise Problem(404, "there is no clip of that id")
        return Done()

    @router.get(
        "/api/clips/{clip_id}/video",
        summary="The video",
        response_class=Response,
        responses={**content("video/mp4", "video/x-matroska"), **problems(409)},
    )
    def video(clip_id: ClipId, request: Request) -> Response:
        found = clip_of(clip_id)
        return answer(found.clip.video, request, describe(found).media_type)

    @router.get(
        "/api/clips/{clip_id}/snapshot.jpg",
        summary="The best frame, with boxes",
        response_class=Response,
        responses={**content("image/jpeg"), **problems(409)},
    )
    def snapshot(clip_id: ClipId, request: Request) -> Response:
        return answer(clip_of(clip_id).clip.snapshot, request, "image/jpeg")

    @router.get(
        "/api/clips/{clip_id}/detections.jsonl",
        summary="What was detected, a line a frame",
        response_class=Response,
        responses={**content("application/jsonl"), **problems(409)},
    )
    def detections(clip_id: ClipId, request: Request) -> Response:
        return answer(clip_of(clip_id).clip.detections, request, "application/jsonl")

    @router.get(
        "/api/clips/{clip_id}/captions.vtt",
        summary="What was detected, as subtitles",
        response_class=Response,
        responses={**content("text/vtt"), **problems(409)},
    )
    def captions(clip_id: ClipId, request: Request) -> Response:
        return answer(clip_of(clip_id).clip.captions, request, "text/vtt")

    return router
