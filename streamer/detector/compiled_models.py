"""Compiled models in the cache folder, so that a later start neither reads the model's graph nor compiles it.

OpenVINO's own model cache isn't used: by a file's path it misses new weights in an IR's ``.bin`` beside an unchanged
``.xml``, and by content the graph would have to be read and rewritten first. An entry here belongs to the content of
the model's files, what describes them, the options, the processor, the version of OpenVINO and this program's own
code. It is stored only after the self-check has passed, with what the engine has found in the packaged picture, and
each restored engine has to find the same again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamer import __version__
from streamer.common.atomic_file import atomic_file
from streamer.common.cache import cached_file
from streamer.common.cpu_info import available_cores, processor_flags, processor_name
from streamer.common.errors import EngineError, ModelError
from streamer.detector.self_check import difference, find_in_picture
from streamer.detector.speeds import COMPILED
from streamer.detector.tuning import is_machine_busy
from streamer.engines import open_engine
from streamer.frames.detections import Detections
from streamer.models.described import DescribedModel, PrecompiledModel, content_sha256
from streamer.models.file_forms import is_ir
from streamer.models.spec import ModelSpec

if TYPE_CHECKING:
    from streamer.engines.base import Engine
    from streamer.engines.openvino_engine import OpenVinoEngine
    from streamer.models.file import ModelFile

log = logging.getLogger(__name__)

_MOST_ENTRIES = 8
_MEASURED_FRAMES = 4
_PACKAGE = Path(__file__).parent.parent
_CODE = ("models/**/*.py", "engines/*.py", "detector/*.py")
_VARIABLES = ("ONEDNN_", "DNNL_", "OV_", "OPENVINO_")
"""Beginnings of the environment variables that change what OpenVINO compiles."""


@dataclass(frozen=True, eq=False)
class CompiledModels:
    """The compiled forms of one model file for OpenVINO on this machine, one for each number of requests.

    Attributes:
        path: the model's file.
        given: its description, where that isn't the file's own.
        precision: asked of the engine.
        threads: asked of the engine.
    """

    path: Path
    given: ModelSpec | None
    precision: str
    threads: int | None

    def open(self, requests: int | None, *, self_check: bool) -> tuple[DescribedModel, Engine] | None:
        """Opens an engine from the cache; None where there is no entry, or it doesn't compute what it did before.

        Args:
            requests: asked of the engine, as for `streamer.engines.open_engine`.
            self_check: whether to compare what it finds in the packaged picture with what it found when it was stored.
        """
        path = self._entry(requests)
        stored = None if path is None else _read(path, self.path)
        if stored is None:
            return None
        model, expected = stored
        try:
            engine = open_engine("openvino", model, slots=requests, precision=self.precision, threads=self.threads)
        except EngineError as error:
            log.info("%s is compiled again: %s", self.path.name, error)
            return None
        try:
            problem = difference(expected, find_in_picture(model, engine)) if self_check else None
        except (EngineError, ModelError) as error:
            problem = str(error)
        if problem is None:
            return DescribedModel(model.path, model.sha256, model.spec), engine  # without what was compiled: 4 MB
        log.warning("%s is compiled again: what was kept of it computes wrongly (%s)", self.path.name, problem)
        engine.close()
        return None

    def keep(self, requests: int | None, model: ModelFile, engine: OpenVinoEngine) -> None:
        """Stores what an idle engine has compiled, where the cache is writable; it has passed the self-check."""
        path = self._entry(requests)
        spec = model.spec.model_dump_json()
        if path is None or model.sha256 != self._sha256 or ModelSpec.model_validate_json(spec) != model.spec:
            return  # the file changes, has weights in other files, or is described by what isn't read again
        found = find_in_picture(model, engine)
        compiled = engine.export()
        header = {
            "spec": spec,
            "precision": engine.precision,
            "busy": is_machine_busy(),
            "fps": _fps(engine),
            "options": dict(engine.options),
            "found": np.column_stack((found.class_ids, found.scores, found.boxes_xyxy)).tolist(),
            "model_sha256": model.sha256,
            "compiled_sha256": hashlib.sha256(compiled).hexdigest(),
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as partial:
                partial.write_bytes(json.dumps(header).encode() + b"\n" + compiled)
            _drop_oldest(path.parent)
        except OSError as error:
            log.info("can't store the compiled model in %r: %s", str(path), error.strerror or error)

    @cached_property
    def _sha256(self) -> str | None:
        try:
            return content_sha256(self.path)
        except OSError:
            return None

    def _entry(self, requests: int | None) -> Path | None:
        """Returns the file of an entry; None where the model can't be read."""
        if self._sha256 is None:
            return None
        parts = [
            self._sha256,
            self.path.stem,  # some graphs are recognised by their file's name, too
            "" if self.given is None else self.given.model_dump_json(),
            *_descriptions_beside(self.path),
            requests,
            self.precision,
            self.threads or available_cores(),
            *_machine(),
        ]
        return cached_file(COMPILED, hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32])


def _descriptions_beside(path: Path) -> list[str]:
    """Returns digests of the files that may describe an IR."""
    beside = sorted(path.parent.glob(f"{path.stem}.[yj]*")) if is_ir(path) else []
    return [f"{each.name} {hashlib.sha256(each.read_bytes()).hexdigest()}" for each in beside if each.is_file()]


def _machine() -> list[str]:
    """Returns everything else that what OpenVINO compiles depends on: processor, versions, settings, this code."""
    from streamer.common.openvino_core import openvino_version

    variables = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(_VARIABLES))
    code = []
    for place in (each for pattern in _CODE for each in sorted(_PACKAGE.glob(pattern))):
        state = place.stat()
        code.append(f"{place.name} {state.st_size} {state.st_mtime_ns}")
    return [__version__, openvino_version(), processor_name(), *sorted(processor_flags()), *variables, *code]


def _read(path: Path, model_path: Path) -> tuple[PrecompiledModel, Detections] | None:
    """Reads an entry; returns None where there is none, or it is damaged."""
    try:
        head, _, compiled = path.read_bytes().partition(b"\n")
        header: dict[str, Any] = json.loads(head)
        if hashlib.sha256(compiled).hexdigest() != header["compiled_sha256"]:
            raise ValueError("its content isn't what was stored")
        spec = ModelSpec.model_validate_json(header["spec"])
        rows = np.array(header["found"], np.float32).reshape(-1, 6)
        found = Detections(rows[:, 2:], rows[:, 1], rows[:, 0].astype(np.int64))
        about = header["model_sha256"], spec, header["precision"], dict(header["options"])
        return PrecompiledModel(model_path, *about, compiled), found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        log.info("the compiled model %r is damaged: %s", str(path), error)
        return None


def _fps(engine: Engine) -> float:
    """Returns how many frames an engine computes in a second, measured with what its inputs hold."""
    rounds = -(-_MEASURED_FRAMES // engine.slots)
    started_at_s = time.perf_counter()
    for _ in range(rounds):
        for slot in range(engine.slots):
            engine.start(slot)
        for slot in range(engine.slots):
            engine.wait(slot)
    return rounds * engine.slots / (time.perf_counter() - started_at_s)


def _drop_oldest(folder: Path) -> None:
    """Keeps the newest entries."""
    entries = sorted((each.stat().st_mtime, each) for each in folder.iterdir() if len(each.name) == 32)
    for _, each in entries[:-_MOST_ENTRIES]:
        each.unlink(missing_ok=True)
