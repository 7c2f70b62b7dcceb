"""Which GPU decodes each source of a run, and so detects in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from streamer.runtime.lanes import load_of
from streamer.sources.base import Source
from streamer.sources.spec import SourceSpec

_UNEVEN = 0.8
"""Sources are moved where that lowers the highest load to this share of it: a camera that moves reconnects."""


class GpuPlacement:
    """Gives each video a GPU before it is opened. Any thread may use it.

    Attributes:
        choose: returns the GPU for a new source, given those of sources that are being opened. At first the one with
            the fewest; a run replaces it by one that knows the streams.
    """

    def __init__(self, gpus: Sequence[int]) -> None:
        """Takes the numbers of the GPUs that decode; none where a CPU does."""
        self._gpus = gpus
        self.choose: Callable[[Collection[int]], int | None] = self._fewest
        self._gpu_of: dict[str, int] = {}
        self._opening: dict[str, int] = {}

    def place(self, spec: SourceSpec) -> int | None:
        """Returns the GPU that is to decode a source, None for the CPU; it counts as being opened."""
        self._gpu_of.pop(spec.name, None)
        if not self._gpus or not spec.kind.is_video:
            return None
        gpu = self.choose(list(self._opening.values()))
        if gpu is not None:
            self._gpu_of[spec.name] = self._opening[spec.name] = gpu
        return gpu

    def drop(self, name: str) -> None:
        """Forgets a source that couldn't be opened."""
        self._opening.pop(name, None)

    def settle(self, name: str) -> int | None:
        """Returns the GPU of a source that is open now, and is about to be a stream."""
        self._opening.pop(name, None)
        return self._gpu_of.get(name)

    def balance(self, sources: Sequence[Source]) -> None:
        """Moves open sources to other GPUs where that evens out the load, once their sizes and rates are known."""
        loads = {source: load_of(source.info) for source in sources if source.info.name in self._gpu_of}
        before, after = dict.fromkeys(self._gpus, 0.0), dict.fromkeys(self._gpus, 0.0)
        best: list[tuple[Source, int, int]] = []
        for source in sorted(loads, key=lambda each: -loads[each]):
            gpu = self._gpu_of[source.info.name]
            before[gpu] += loads[source]
            wanted = min(after, key=lambda each: (after[each], each != gpu))
            after[wanted] += loads[source]
            best.append((source, gpu, wanted))
        if max(after.values(), default=0.0) > _UNEVEN * max(before.values(), default=0.0):
            return
        for source, gpu, wanted in best:
            if gpu != wanted:
                self._gpu_of[source.info.name] = self._opening[source.info.name] = wanted
                source.move_to_gpu(wanted)

    def _fewest(self, opening: Collection[int]) -> int | None:
        counts = Counter(opening)
        return min(self._gpus, key=lambda gpu: counts[gpu])
