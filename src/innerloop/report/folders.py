"""The folders that a page is made of: those of runs, and those of searches for a trade-off."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from innerloop.core.errors import ContractError, DataError
from innerloop.diagnose.verdict import EPSILON
from innerloop.report.records import RunRecords, read
from innerloop.report.tradeoff_words import Told

#: What a search found, as `innerloop tradeoff` writes it when it is through.
FRONT = "front.json"


@dataclass(frozen=True)
class SearchRecords:
    """One search for a trade-off, as its folder tells it.

    Attributes:
        name: the folder as it was given.
        told: what its `front.json` holds.
    """

    name: str
    told: Told

    @property
    def title(self) -> str:
        """What was searched for, in a line: `MAML on SinusoidFamilies`."""
        return f"{self.told['algorithm']} on {self.told['tasks']}"


def gather(
    paths: Sequence[str | os.PathLike[str]], *, epsilon: float = EPSILON
) -> tuple[list[RunRecords], list[SearchRecords]]:
    """Read folders of runs and of searches, which may stand in any order.

    Args:
        epsilon: relative change of a run's probe loss over a window that counts as none.

    Raises:
        ContractError: a path is neither.
        DataError: a `front.json` cannot be read.
    """
    runs: list[RunRecords] = []
    searches: list[SearchRecords] = []
    for path in paths:
        if (Path(path) / FRONT).exists():
            searches.append(search(path))
        elif (Path(path) / "config.yaml").exists():
            runs.append(read(path, epsilon=epsilon))
        else:
            raise ContractError(
                f"{os.fspath(path)} with neither config.yaml nor {FRONT}",
                expected="a run folder, as written by 'innerloop train', or that of a search, by "
                "'innerloop tradeoff'",
                do=f"check the path; a search that was interrupted has no {FRONT} until its command is run "
                "again",
            )
    return runs, searches


def search(path: str | os.PathLike[str]) -> SearchRecords:
    """Read the folder of a search; raises `DataError` where its `front.json` holds no JSON object."""
    try:
        told = json.loads((Path(path) / FRONT).read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    if not isinstance(told, dict):
        raise damaged(path, "no JSON object")
    return SearchRecords(os.fspath(path), told)


def damaged(path: str | os.PathLike[str], reason: object) -> DataError:
    """The error for a `front.json` that is not as a search writes it."""
    return DataError(
        f"{Path(path) / FRONT}: {reason}",
        expected="what a search found, as 'innerloop tradeoff' writes it",
        do="run the command of the search again: it keeps its trials and writes the file anew",
    )


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
