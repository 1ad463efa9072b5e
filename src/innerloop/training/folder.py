"""The run folder: the unit of exchange. Everything in it is text or safetensors."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from innerloop.core.errors import ConfigError, ContractError, DataError
from innerloop.core.files import write_whole
from innerloop.diagnose.history import PROBE, lines

log = logging.getLogger("innerloop")

CONFIG, SPEC, ENVIRONMENT = "config.yaml", "spec.json", "environment.json"
METRICS, CHECKPOINTS, ENGINE = "metrics.jsonl", "checkpoints", "engine.json"


class RunFolder:
    """A folder that holds one run.

    Attributes:
        path: `config.yaml`, `spec.json` (what the tasks are like), `environment.json`, `engine.json`
            (how meta-gradients are computed, and why), `metrics.jsonl`, `checkpoints/`, pictures,
            evaluations.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        return (self.path / CONFIG).is_file()

    def check(self) -> None:
        """Raise `ContractError` unless this is a run folder."""
        if not self.exists:
            what = "a folder without config.yaml" if self.path.is_dir() else "no such folder"
            raise ContractError(
                f"{self.path}: {what}",
                expected="a run folder, as written by 'innerloop train'",
                do="check the path",
            )

    def create(self, config: str, spec: str, *, overwrite: bool) -> None:
        """Start a run here; nothing that is already here is lost without `overwrite`."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            if not self.exists:
                raise ConfigError(
                    f"{self.path} exists and is not a run folder",
                    expected="a new or empty folder",
                    do="choose another --out",
                )
            if not overwrite:
                raise ConfigError(
                    f"{self.path} already holds a run",
                    expected="a new folder",
                    do="add --resume to continue it, --overwrite to start again, or choose another --out",
                )
            with told_as_data_error(self.path):
                shutil.rmtree(self.path)
        with told_as_data_error(self.path):
            (self.path / CHECKPOINTS).mkdir(parents=True)
            self.write(CONFIG, config)
            self.write(SPEC, spec)
            self.write(ENVIRONMENT, json.dumps(environment(), indent=2) + "\n")

    def write(self, name: str, text: str) -> Path:
        """Write a text file so that it is either whole or as before."""
        target = self.path / name
        with told_as_data_error(target):
            write_whole(target, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return target

    def read(self, name: str) -> str:
        """The text of a file, or a `ContractError` that names what is missing."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ContractError(
                f"{self.path / name}: {getattr(error, 'strerror', None) or error}",
                expected="a whole run folder, as written by 'innerloop train'",
                do="restore the file, or train again",
            ) from error

    def append(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Add lines to a file of records, `metrics.jsonl` or `probe.jsonl`."""
        with told_as_data_error(self.path), (self.path / name).open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; a last line that a kill cut short is left out."""
        return lines(self.path / METRICS)

    def rewind(self, step: int) -> None:
        """Drop the lines of outer steps after `step`, which a resumed run will write again."""
        for name in (METRICS, PROBE):
            if (self.path / name).exists() or name == METRICS:
                kept = [json.dumps(row) + "\n" for row in lines(self.path / name) if row["step"] <= step]
                self.write(name, "".join(kept))

    def save_checkpoint(self, name: str, tensors: dict[str, Tensor], values: dict[str, Any]) -> Path:
        """Write `checkpoints/<name>.safetensors` and `.json` (its values and hash), whole or as before."""
        folder = self.path / CHECKPOINTS
        data, facts = folder / f"{name}.safetensors", folder / f"{name}.json"
        with told_as_data_error(data):
            # The hash goes into the JSON, which is written last: a cut between the two is detected.
            write_whole(data, lambda temporary: save_file(tensors, str(temporary)))
            facts_text = json.dumps(values | {"sha256": _sha256(data)}, indent=2) + "\n"
            write_whole(facts, lambda temporary: temporary.write_text(facts_text, encoding="utf-8"))
        return data

    def load_checkpoint(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A checkpoint's tensors and values, or a `DataError` that names the file that is damaged."""
        folder = self.path / CHECKPOINTS
        data, facts = folder / f"{name}.safetensors", folder / f"{name}.json"
        try:
            values = json.loads(facts.read_text(encoding="utf-8"))
            if _sha256(data) != values.pop("sha256"):
                raise ValueError("its hash is not the recorded one")
            return load_file(str(data)), values
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            raise DataError(
                f"checkpoint {data}: {error}", expected="an undamaged checkpoint", do="use another one"
            ) from error

    def checkpoints(self) -> list[str]:
        """Names of the numbered checkpoints, newest first."""
        names = [path.stem for path in (self.path / CHECKPOINTS).glob("step-*.json")]
        return sorted(names, key=lambda name: int(name.rpartition("-")[2]), reverse=True)

    def newest_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest undamaged checkpoint; damaged ones are named in the log and passed over."""
        names = self.checkpoints()
        for name in names:
            try:
                return self.load_checkpoint(name)
            except DataError as error:
                log.warning("%s; using the one before it", error.got)
        if names:
            raise DataError(
                f"{self.path / CHECKPOINTS}: {len(names)} checkpoints, all damaged",
                expected="an undamaged checkpoint",
                do="train again with --overwrite",
            )
        return None

    def best_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The checkpoint of the best validation score; if it is damaged or not there yet, the newest one."""
        try:
            return self.load_checkpoint("best")
        except DataError as error:
            found = self.newest_checkpoint()
            if found is None:
                raise error
            return found

    def prune_checkpoints(self, keep: int) -> None:
        """Delete all numbered checkpoints but the newest `keep`."""
        for name in self.checkpoints()[keep:]:
            for suffix in (".json", ".safetensors"):
                (self.path / CHECKPOINTS / f"{name}{suffix}").unlink(missing_ok=True)


def environment() -> dict[str, Any]:
    """What the numbers of a run may depend on: versions and machine, and the command."""
    packages = {name: metadata.version(name) for name in ("torch", "numpy", "pillow", "safetensors")}
    return {
        "innerloop": metadata.version("innerloop"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": packages,
        "command": sys.argv,
    }


class told_as_data_error:
    """Turn the errors of a full or read-only disk into a `DataError` that names the path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | safetensors.SafetensorError):
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"cannot write {self.path}: {reason}",
                expected="a writable folder with space left",
                do="free space or choose another --out; the last good checkpoint is untouched",
            ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
