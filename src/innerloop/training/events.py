"""TensorBoard event files, for those who want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from innerloop.core.errors import ConfigError
from innerloop.diagnose.history import PLACE
from innerloop.training.folder import RunFolder


class EventFiles:
    """Writes the numbers of every line of metrics to TensorBoard event files in the run folder."""

    def __init__(self, folder: RunFolder | None, log: str) -> None:
        self._writer: Any = None
        if log == "tensorboard" and folder is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ConfigError(
                    "log = 'tensorboard' without TensorBoard",
                    expected="the extra to be installed",
                    do="pip install 'innerloop[tensorboard]'",
                ) from error
            self._writer = SummaryWriter(str(folder.path / "tensorboard"))

    def write(self, row: dict[str, Any]) -> None:
        if self._writer is None:
            return
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self._writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        self._writer.flush()

    def write_look(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The mean of each quantity of a look at the probe, by its name and place."""
        if self._writer is None:
            return
        for row in rows:
            known = [value for value in row.get("values", ()) if value is not None]
            if known:
                parts = [row["name"], *(str(row[place]) for place in PLACE if place in row)]
                self._writer.add_scalar("probe/" + "/".join(parts), sum(known) / len(known), row["step"])
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
