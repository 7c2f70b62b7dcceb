"""Streams, their state and history, settings and changes over HTTP; docs/http-api.md shows each with an example."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from streamer.frames.palette import Colour, class_colour, ink_on
from streamer.web.api_models import ApiModel, NewStream, RunSettings, StreamChanges, Text
from streamer.web.control import RunControl
from streamer.web.problems import REFUSALS, Problem, problems
from streamer.web.security import check_token
from streamer.web.state import StateMonitor
from streamer.web.state_models import (
    Changes,
    ClassInfo,
    Done,
    Health,
    HistoryPoint,
    LoggedIn,
    Settings,
    State,
    StreamInfo,
)

Name = Annotated[str, Path(max_length=200, description="the stream's name")]


class Login(ApiModel):
    """What logs in."""

    token: Annotated[Text, Query(max_length=1000)]


def login_router() -> APIRouter:
    """Returns the routes of logging in and out; they find what they need where `PageGuard` puts it."""
    router = APIRouter(tags=["login"], responses=REFUSALS)

    @router.post("/api/login", summary="Exchanges the token for a cookie")
    async def login(login: Login, request: Request, response: Response) -> LoggedIn:
        state = request.state
        if state.access is not None:
            check_token(state.access, login.token, state.client, state.logins)
            response.headers["Set-Cookie"] = state.access.new_cookie()
        return LoggedIn(logged_in=True)

    @router.post("/api/logout", summary="Ends the cookie's session")
    async def logout(request: Request, response: Response) -> LoggedIn:
        access = request.state.access
        if access is not None:
            response.headers["Set-Cookie"] = access.end_session(request.headers.get("cookie", ""))
        return LoggedIn(logged_in=access is None)

    return router


def state_router(control: RunControl, monitor: StateMonitor) -> APIRouter:
    """Returns the routes that tell how the run is."""
    router = APIRouter(tags=["state"], responses=REFUSALS)

    @router.get("/healthz", summary="Whether the run is well", responses={503: {"model": Health}})
    async def healthz(request: Request, response: Response) -> Health:
        health = monitor.health()
        if not health.ready:
            response.status_code = 503
        is_known = request.state.has_token or request.state.access is None
        return health if is_known else health.model_copy(update={"down": None})

    @router.get("/api/state", summary="The state of all streams, as /api/events sends it")
    async def state() -> State:
        return monitor.state

    @router.get("/api/history", summary="The last ten minutes of a stream, oldest first", responses=problems(404))
    async def history(stream: Annotated[str, Query(max_length=200)]) -> tuple[HistoryPoint, ...]:
        found = monitor.history(stream)
        if found is None:
            raise Problem(404, "there is no stream of that name")
        return found

    @router.get("/api/classes", summary="The model's classes and their colours, by class id")
    async def classes() -> list[ClassInfo]:
        return [_class_info(number, label) for number, label in enumerate(control.labels)]

    return router


def stream_router(control: RunControl, monitor: StateMonitor) -> APIRouter:
    """Returns the routes of streams and settings."""
    router = APIRouter(tags=["streams"], responses=REFUSALS)

    def info(request: Request, name: str, state: State, notices: tuple[str, ...] = ()) -> StreamInfo:
        view = control.sources().get(name)
        found = next((each for each in state.streams if each.name == name), None)
        if view is None or found is None:
            raise Problem(404, "there is no stream of that name")
        return StreamInfo(
            name=name,
            uri=view.uri if request.state.has_token else None,
            is_added=view.is_added,
            settings=view.settings,
            changed=dict(view.changed),
            state=found,
            notices=tuple(dict.fromkeys((*notices, *view.notices))),
        )

    @router.get("/api/streams", summary="All streams")
    def streams(request: Request) -> list[StreamInfo]:
        state = monitor.measure()
        return [info(request, each.name, state) for each in state.streams]

    @router.post(
        "/api/streams",
        summary="Adds a stream, which opens in the background",
        status_code=201,
        responses=problems(409, 503),
    )
    def add(stream: NewStream, request: Request) -> StreamInfo:
        notices = control.add(stream)
        return info(request, stream.name, monitor.measure(), notices)

    @router.get("/api/streams/{name}", summary="One stream", responses=problems(404))
    def stream(name: Name, request: Request) -> StreamInfo:
        return info(request, name, monitor.measure())

    @router.patch(
        "/api/streams/{name}",
        summary="Changes a stream at once; a key that is null takes its change back",
        responses=problems(404, 409, 503),
    )
    def change(name: Name, changes: StreamChanges, request: Request) -> StreamInfo:
        notices = control.change(name, changes)
        return info(request, name, monitor.measure(), notices)

    @router.delete("/api/streams/{name}", summary="Removes a stream", responses=problems(404, 409, 503))
    def remove(name: Name) -> Done:
        notices = control.remove(name)
        monitor.measure()
        return Done(notices=notices)

    return router


def settings_router(control: RunControl) -> APIRouter:
    """Returns the routes of the run's settings, and of all that was changed."""
    router = APIRouter(tags=["settings"], responses=REFUSALS)

    @router.get("/api/settings", summary="What holds for streams that have nothing of their own")
    def settings() -> Settings:
        return control.settings()

    @router.patch(
        "/api/settings", summary="Changes these; a key that is null takes its change back", responses=problems(409, 503)
    )
    def change_settings(settings: RunSettings) -> Settings:
        notices = control.change_settings(settings)
        return control.settings().model_copy(update={"notices": notices})

    @router.get("/api/changes", summary="All that was changed on the page, and where it is kept")
    def changes() -> Changes:
        return control.changes()

    @router.delete("/api/changes", summary="Takes all changes back", responses=problems(409, 503))
    def take_all_back() -> Done:
        return Done(notices=control.take_back())

    @router.delete(
        "/api/changes/{name}",
        summary="Takes back what was changed of a stream, its removal too",
        responses=problems(404, 409, 503),
    )
    def take_back(name: Name) -> Done:
        return Done(notices=control.take_back(name))

    return router


def _class_info(class_id: int, label: str) -> ClassInfo:
    fill = class_colour(class_id)
    return ClassInfo(label=label, colour=_hex(fill), ink=_hex(ink_on(fill)))


def _hex(colour: Colour) -> str:
    blue, green, red = colour
    return f"#{red:02x}{green:02x}{blue:02x}"
