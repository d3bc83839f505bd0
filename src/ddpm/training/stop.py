"""Why a training should end before its last step."""

from __future__ import annotations

import os
import signal

from ddpm.machine import distributed


class Interrupts:
    """Notices that the run should end: SIGINT, SIGTERM, or the death of who started it: of dvc, or of the stage's launch."""

    def __init__(self) -> None:
        self.reason: str | None = None
        # Under torchrun the parent is torchrun; the process that started it watches over dvc, and this one over that.
        self._parent = os.getppid() if "DVC_STAGE" in os.environ and not distributed.launched() else None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.reason = signal.Signals(number).name

    def pending(self) -> str | None:
        """The reason to end, None if there is none."""
        if self.reason is None and self._parent is not None and os.getppid() != self._parent:
            self.reason = "the death of dvc"
        if self.reason is None and distributed.launcher_gone():
            self.reason = "the death of the stage that started it"
        return self.reason
