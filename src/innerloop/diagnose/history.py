"""The records of one run: what `metrics.jsonl`, `probe.jsonl` and the configuration say, by name and step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from innerloop.core.errors import ContractError, DataError
from innerloop.diagnose.finding import NotEvaluated

PROBE = "probe.jsonl"
#: What a record is found by, beside its name.
PLACE = ("split", "inner_step", "layer", "scale", "family")

Values = NDArray[np.float64]
Row = dict[str, Any]


class Series(NamedTuple):
    """One quantity over a run: `values[i]` [n] stands for `steps[i]` outer steps done; NaN is not finite."""

    steps: list[int]
    values: list[Values]

    @property
    def last(self) -> Values:
        """The last measurement [n]."""
        return self.values[-1]

    @property
    def means(self) -> Values:
        """The mean of each measurement [K]."""
        return np.array([v.mean() for v in self.values])

    def stacked(self) -> Values:
        """All measurements [K, n], of the first n tasks, which every one has."""
        count = min(map(len, self.values))
        return np.stack([v[:count] for v in self.values])


class History:
    """The records of a run, up to an outer step.

    Args:
        config: the run's whole configuration, as `config.yaml` holds it.
        metrics: the lines of `metrics.jsonl`.
        rows: the lines of `probe.jsonl`: `step`, `name`, and `values` (a list) or `value` (a number, or a
            mapping),
            and where it applies `split`, `inner_step`, `layer`, `scale`, `family`.
        path: the run folder, or None.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        metrics: Sequence[Row] = (),
        rows: Iterable[Row] = (),
        path: Path | None = None,
    ) -> None:
        self.config, self.metrics, self.path = config, list(metrics), path
        self.setup: dict[str, Any] = {}
        self.end: float = math.inf
        self._found: dict[tuple[Any, ...], list[tuple[int, Values]]] = {}
        self.append(rows)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> History:
        """The records in a run folder; a last line that a kill cut short is left out."""
        folder = Path(path)
        try:
            config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ContractError(
                f"{folder} without a readable config.yaml",
                expected="a run folder, as written by 'innerloop train'",
                do="check the path",
            ) from error
        config = config if isinstance(config, dict) else {}
        try:
            return cls(config, lines(folder / "metrics.jsonl"), lines(folder / PROBE), folder)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{folder / PROBE}: {error}",
                expected="records, as a run writes them",
                do="restore the file, or remove it to do without",
            ) from error

    def append(self, rows: Iterable[Row]) -> None:
        """Take in more lines of the probe, `rows`."""
        for row in rows:
            if row.get("name") == "setup":
                self.setup = dict(row["value"])
                continue
            values = row.get("values", [row.get("value")])
            numbers = np.array([math.nan if v is None else v for v in values], dtype=np.float64)
            if not len(numbers):
                continue
            place = (row.get("name"), *(row.get(name) for name in PLACE))
            self._found.setdefault(place, []).append((row["step"], numbers))

    def until(self, step: int) -> History:
        """The same records as they stood after outer step `step`."""
        other = History(self.config, [row for row in self.metrics if row["step"] <= step], (), self.path)
        other.setup, other._found, other.end = self.setup, self._found, step
        return other

    @property
    def step(self) -> int:
        """The last outer step that there is a record of."""
        steps = [step for rows in self._found.values() for step, _ in rows if step <= self.end]
        return max([*steps, *(row["step"] for row in self.metrics)], default=0)

    @property
    def looks(self) -> list[int]:
        """The outer steps after which the probe looked."""
        return [step for step, _ in self._rows("post", {"split": "val"})]

    @property
    def wide_looks(self) -> list[int]:
        """Those of them at which all was measured that a wide look measures."""
        return [step for step, _ in self._rows("wrong", {"split": "val"})]

    def has(self, name: str, **place: Any) -> bool:
        """Whether the quantity `name` was measured, at a `place` such as `split="val"`."""
        return bool(self._rows(name, place))

    def series(self, name: str, **place: Any) -> Series:
        """The quantity `name` over the run, at a `place` such as `split="val"`.

        Raises:
            NotEvaluated: it was not measured; the reason is the one that the probe wrote down.
        """
        found = self._rows(name, place)
        if not found:
            skipped = self.setup.get("skipped", {})
            raise NotEvaluated(
                skipped.get(name, f"no record of {name}" if self.setup else "no probe records")
            )
        return Series([step for step, _ in found], [values for _, values in found])

    def places(self, name: str, what: str) -> list[Any]:
        """Where the quantity `name` was measured, by `what`: inner_step, layer, ...; in order."""
        index = 1 + PLACE.index(what)
        keys = [key for key in self._found if key[0] == name and key[index] is not None]
        return list(dict.fromkeys(key[index] for key in keys))

    def setting(self, name: str, default: Any = None) -> Any:
        """A setting of the run by its dotted name, such as `optimizer.lr`; `default` if it has none."""
        node: Any = self.config
        for part in name.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return default
            node = node[part]
        return default if node is None else node

    def _rows(self, name: str, place: Mapping[str, Any]) -> list[tuple[int, Values]]:
        rows = self._found.get((name, *(place.get(part) for part in PLACE)), [])
        return [row for row in rows if row[0] <= self.end]


def lines(path: Path) -> list[Row]:
    """The lines of a JSON-lines file; one that a kill cut short, and what follows it, is left out.

    Raises:
        DataError: it is not text.
    """
    rows: list[Row] = []
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return rows
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is damaged ({error.reason})",
            expected="lines of JSON, as training writes them",
            do="restore the file, or train again",
        ) from error
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
