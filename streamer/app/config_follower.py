"""Follows what a run is to be: its configuration file, and what is changed on the live page."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from streamer.app.config import StreamConfig
from streamer.app.reconciler import SOON_S, StreamReconciler
from streamer.app.watched_file import WatchedFile
from streamer.common.errors import StreamerError, one_line

if TYPE_CHECKING:
    from streamer.app.page_changes import PageChanges

log = logging.getLogger(__name__)

POLL_S = 0.5


class ConfigFollower:
    """Has a reconciler apply the configuration file whenever it changes, and changes of the page on top of it.

    A file that is gone, being written, wrong, or names no source changes nothing, and is warned of.

    Attributes:
        changes: those of the page; None where nothing was changed.
    """

    def __init__(
        self,
        config: StreamConfig,
        file: WatchedFile[StreamConfig] | None,
        reconciler: StreamReconciler,
        check: Callable[[StreamConfig], None],
        ended: threading.Event,
        *,
        changes: PageChanges | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        """Starts nothing yet.

        Args:
            config: as the run began, without `changes`.
            file: the configuration to follow; None where there is none.
            reconciler: applies it.
            check: raises `StreamerError` where a configuration can't be applied.
            ended: set once the run is over.
            changes: of the page, which the run began with.
            poll_s: how often the file is looked at.
        """
        self.changes = changes
        self._base, self._file, self._reconciler = config, file, reconciler
        self._check, self._ended, self._poll_s = check, ended, poll_s
        self._lock = threading.Lock()  # guards `changes` and `_base`
        self._thread: threading.Thread | None = None

    def keep_following(self) -> None:
        """To be called often once the pipeline runs: starts what there is to follow, and warns where reading hangs."""
        if self._thread is None and (self._file is not None or self._reconciler.has_pending):
            self._thread = threading.Thread(target=self._follow, name="follow", daemon=True)
            self._thread.start()
        if self._file is not None:
            self._file.warn_if_it_hangs()

    def change(self, edit: Callable[[PageChanges | None, StreamConfig], PageChanges]) -> PageChanges:
        """Applies other changes of the page at once, on any thread, and returns them.

        `edit` gets the changes until now and the configuration without them.

        Raises:
            StreamerError: if they can't be applied; nothing is changed then.
        """
        with self._lock:
            changes = edit(self.changes, self._base)
            config = changes.applied_to(self._base)
            self._check(config)
            self._reconciler.apply(config, retries=False)
            self.changes = changes
        return changes

    def _follow(self) -> None:
        polled_s = float("-inf")
        while not self._ended.wait(SOON_S if self._reconciler.has_pending else self._poll_s):
            try:
                if self._file is not None and time.monotonic() - polled_s >= self._poll_s:
                    polled_s = time.monotonic()
                    self._reread(self._file)
                self._reconciler.start_pending()
            except Exception as error:
                log.error("the configuration can't be followed: %s", one_line(f"{type(error).__name__}: {error}"))
                log.debug("traceback", exc_info=True)
                self._ended.wait(self._poll_s)

    def _reread(self, file: WatchedFile[StreamConfig]) -> None:
        try:
            found = file.poll()
            if found is None:
                return
            with self._lock:
                config = found if self.changes is None else self.changes.applied_to(found)
                self._check(config)
                self._base = found
                self._reconciler.apply(config)
        except StreamerError as error:
            log.warning("%s has changed and can't be followed: %s", file.path, error)
