"""What people see of a training while it runs: a preview of its images and, if they like, TensorBoard events."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ddpm.base.faults import Fault
from ddpm.base.files import amount, disk_faults, free_bytes
from ddpm.model.weights import save_weights
from ddpm.training.loop import TrainState
from ddpm.training.settings import TrainConfig
from ddpm.training.states import StateFolder, weights_bytes
from stages import ROOT, Paths, RuntimeConfig

NICE = "10"  # of the process that draws previews: beside a training that takes all cores, a tenth of one; 19: a hundredth


def check_tensorboard() -> None:
    """Raise Fault if the package tensorboard, which is an extra, cannot be used."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise Fault(
            f"runtime.tensorboard = True: {error}; accepted: false, or true after `pip install tensorboard` "
            "(with this project: pip install -e '.[tensorboard]')"
        ) from None


class Window:
    """What people see of a training while it runs: preview.png every runtime.preview_every seconds, from the EMA weights,
    and, with runtime.tensorboard, the rows of loss.csv and the previews as events in tensorboard/<name of the state folder>.

    A process of its own draws (stages/preview.py), one at a time. What fails here becomes a warning; the training goes on.
    """

    def __init__(
        self,
        paths: Paths,
        settings: RuntimeConfig,
        config: TrainConfig,
        folder: StateFolder,
        metadata: dict[str, Any],
        step: int,
    ) -> None:
        self.paths, self.config, self.folder, self.metadata = paths, config, folder, metadata
        self.pause, self.next_time = settings.preview_every, time.monotonic() + settings.preview_every
        self.process: subprocess.Popen[str] | None = None  # draws the weights of step `drawn`
        self.drawn = 0
        # In the folder that this process has locked: another training of the recipe may run beside this one.
        self.weights, self.picture = folder.path / "preview.safetensors", folder.path / "preview.png"
        self.events: Any = None  # a SummaryWriter, which has the first `rows` rows of loss.csv
        self.rows = 0
        if settings.tensorboard:
            self.open_events(paths.work / "tensorboard" / folder.path.name, step)

    def open_events(self, log: Path, step: int) -> None:
        """Go on with the events in `log` from `step`; what an interrupted training logged beyond it is void."""
        from torch.utils.tensorboard import SummaryWriter

        self.rows = step // self.config.log_every if any(log.glob("events.*")) else 0
        with disk_faults(log, 0):
            self.events = SummaryWriter(str(log), purge_step=self.rows * self.config.log_every + 1)

    def due(self, step: int) -> bool:
        """Whether there is a row to log, a finished preview to show or a new one to begin."""
        row = self.events is not None and (step % self.config.log_every == 0 or step == self.config.steps)
        finished = self.process is not None and self.process.poll() is not None
        return row or finished or self.preview_due(step)

    def preview_due(self, step: int) -> bool:
        """Not of step 0, which has no checkpoint."""
        return step > 0 and self.pause > 0 and self.process is None and time.monotonic() >= self.next_time

    def look(self, state: TrainState) -> None:
        """Do what is due. Raises nothing that the disk or the system refuses."""
        if self.events is not None:
            self.log_rows(state)
        if self.process is not None and self.process.poll() is not None:
            self.show_preview(self.process)
        if self.preview_due(state.step):
            self.begin_preview(state)

    def log_rows(self, state: TrainState) -> None:
        """Log the rows of loss.csv that `state` has and the events have not."""
        rows = state.history.rows()
        end = len(rows) if state.step == self.config.steps else state.step // self.config.log_every
        try:
            for row in rows[self.rows : end]:
                step = row.pop("step")
                for name, value in row.items():
                    if value is not None:
                        self.events.add_scalar(name, value, step)
            self.events.flush()  # where this process is killed, its saved state must not be ahead of its events
            self.rows = end
        except OSError as error:
            self.events = None  # the thread that writes for it has ended
            warn(f"no more TensorBoard events from step {state.step}: {error}")

    def begin_preview(self, state: TrainState) -> None:
        """Start the process that draws the EMA weights of `state`, unless they take room that the training needs."""
        self.drawn, self.next_time = state.step, time.monotonic() + self.pause
        threads = {"OMP_NUM_THREADS": "1"} if next(state.network.parameters()).device.type == "cpu" else {}
        with self.faults_warned():
            need = self.folder.disk_need(state, self.config, self.paths.models, copies=2)[self.folder.path]
            need, free = need + weights_bytes(state.network), free_bytes(self.folder.path)
            if free < need:
                raise Fault(f"the disk of {self.folder.path} has {amount(free)} free, and the training may need {amount(need)}")
            save_weights(self.weights, state.ema.network, self.metadata | {"step": state.step, "kind": "ema"})
            self.process = subprocess.Popen(
                ["nice", "-n", NICE, sys.executable, "-m", "stages.preview", str(self.weights), str(self.picture)],
                cwd=ROOT, env=os.environ | threads | {"TORCH_COMPILE_DISABLE": "1"},  # to compile takes longer than to draw
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip

    def show_preview(self, process: subprocess.Popen[str]) -> None:
        """Put the picture that `process` has drawn where people look, or say why there is none."""
        self.process = None
        if (now := time.monotonic()) > self.next_time:
            self.next_time = now + self.pause  # drawing took longer than a turn: this one is left out
        lines = process.communicate()[1].splitlines()
        with self.faults_warned():
            if process.returncode:
                raise Fault(f"stages.preview ended with {process.returncode}: {lines[-1] if lines else 'it said nothing'}")
            if self.events is not None:
                self.events.add_image("preview", np.asarray(Image.open(self.picture)), self.drawn, dataformats="HWC")
            self.picture.replace(self.paths.work / "preview.png")

    @contextlib.contextmanager
    def faults_warned(self) -> Iterator[None]:
        """What goes wrong with a preview does not end the training."""
        try:
            yield
        except (Fault, OSError) as error:
            warn(f"no preview of step {self.drawn}: {error}")

    def close(self) -> None:
        """End the process that draws, if there is one, and close the events."""
        if self.process is not None and self.process.poll() == 0:
            self.show_preview(self.process)
        elif self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.weights.unlink(missing_ok=True)
        self.picture.unlink(missing_ok=True)  # of a process that had just drawn it
        if self.events is not None:
            self.events.close()


def warn(line: str) -> None:
    tqdm.write(f"warning: {line}", sys.stderr)  # above the bar
