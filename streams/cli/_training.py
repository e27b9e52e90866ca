"""How far training is, on standard error: a bar on a terminal, one plain line an epoch elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich import progress as bars
from rich.console import Console

from models.training import Progress


class TrainingProgress:
    """Shows epochs, and the validation WQL after each. Use as a context."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: bars.Progress | None = None
        self._shown: object = None
        if self._console.is_terminal:
            self._bar = bars.Progress(
                bars.TextColumn("[bold]training"),
                bars.BarColumn(),
                bars.TaskProgressColumn(),
                bars.TextColumn("{task.description}"),
                bars.TimeElapsedColumn(),
                bars.TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=1.0)

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def note(self, line: str) -> None:
        """Show one line."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            sys.stderr.write(f"train: {line}\n")
            sys.stderr.flush()

    def update(self, at: Progress) -> None:
        """Show where the run is."""
        scores = "" if at.validation is None else f" · validation WQL {at.validation:.4f}, best {at.best:.4f}"
        if self._bar is not None:
            done = (at.done + at.batch / max(at.batches, 1)) / at.epochs
            self._bar.update(self._task, completed=done, description=f"{at.done}/{at.epochs} epochs{scores}")
        elif at.ended:
            self.note(f"epoch {at.done} of {at.epochs}{scores}")
