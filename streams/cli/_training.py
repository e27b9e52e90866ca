"""How far training is, on standard error: a bar on a terminal, one plain line an epoch elsewhere."""

from __future__ import annotations

import sys

from rich import progress as bars

from models.training import Progress
from streams.cli._bar import Bar


class TrainingProgress(Bar):
    """Shows epochs, and the validation WQL after each. Use as a context."""

    def __init__(self) -> None:
        super().__init__(
            bars.TextColumn("[bold]training"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.description}"),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        if self.bar is not None:
            self._task = self.bar.add_task("", total=1.0)

    def note(self, line: str) -> None:
        """Show one line."""
        if self.bar is not None:
            self.bar.console.print(line, highlight=False, markup=False)
        else:
            sys.stderr.write(f"train: {line}\n")
            sys.stderr.flush()

    def update(self, at: Progress) -> None:
        """Show where the run is."""
        scores = "" if at.validation is None else f" · validation WQL {at.validation:.4f}, best {at.best:.4f}"
        if self.bar is not None:
            done = (at.done + at.batch / max(at.batches, 1)) / at.epochs
            self.bar.update(self._task, completed=done, description=f"{at.done}/{at.epochs} epochs{scores}")
        elif at.ended:
            self.note(f"epoch {at.done} of {at.epochs}{scores}")
