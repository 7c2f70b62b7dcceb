"""What each of the processes does that `torchrun` starts in a test: `python -m tests.train_in_processes SET FOLDER`.

Writes what the processes have in the end to ``FOLDER/rank-N.json``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from calibration.training import loop
from calibration.training.loop import Training
from calibration.training.network import TrainingNetwork
from calibration.training.process import joined_process
from calibration.training.validation import Validator
from tests.training_runs import small_job


def train(data: Path, folder: Path) -> None:
    """Trains with a budget of time, by a clock that runs faster in each further process."""
    with joined_process("cpu") as process:
        now = SimpleNamespace(s=0.0)

        def monotonic() -> float:
            now.s += 0.05 * (1 + process.rank)
            return now.s

        loop.time = SimpleNamespace(monotonic=monotonic)  # type: ignore[assignment]
        job = small_job(data, folder, steps=None, epochs=None, batch=4, budget_s=12.0, validations=3)
        torch.manual_seed(job.seed)
        network = TrainingNetwork(job.spec)
        validator = Validator(job.val, job.spec, job.data) if process.is_main else None
        training = Training(job, process, network, validator)
        indices: list[list[int]] = []
        rates: list[float] = []
        outcome = training.run(
            on_batch=lambda batch: indices.append(batch.indices.tolist()),
            on_step=lambda *_: rates.append(training.optimiser.param_groups[0]["lr"]),
        )
        digest = hashlib.sha256()
        for _, value in sorted(network.named_parameters()):
            digest.update(value.detach().numpy().tobytes())
        content = {
            "steps": outcome.state.step, "elapsed_s": outcome.state.elapsed_s, "indices": indices, "rates": rates,
            "weights": digest.hexdigest(),
        }  # fmt: skip
        (folder / f"rank-{process.rank}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]))
