"""Planted faults: each is found, healthy runs are quiet, and what a finding proposes mends the run."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from innerloop.diagnose.doctor import Diagnosis, diagnose
from innerloop.diagnose.finding import Finding, Severity
from innerloop.diagnose.history import History

SOURCE = Path(__file__).parents[2] / "benchmarks/faults.py"


def _imported() -> Any:
    spec = importlib.util.spec_from_file_location("planted_faults", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


faults = _imported()
ON_SINUSOIDS = [name for name, plant in faults.FAULTS.items() if "sinusoid" in plant.problems]
QUICK = [name for name in ON_SINUSOIDS if faults.FAULTS[name].before]


def found(diagnosis: Diagnosis) -> dict[str, Finding]:
    return {finding.id: finding for finding in diagnosis.findings}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in ON_SINUSOIDS]
)
def test_each_planted_fault_is_found(name: str) -> None:
    plant = faults.FAULTS[name]
    assert plant.finding in found(faults.diagnosis(plant, faults.SINUSOID, 0))


@pytest.mark.slow
def test_a_healthy_run_is_quiet() -> None:
    loud = [
        f
        for f in faults.diagnosis(faults.HEALTHY, faults.SINUSOID, 0).findings
        if f.severity is not Severity.INFO
    ]
    assert loud == []


def test_a_healthy_learner_is_quiet_before_training() -> None:
    plant = dataclasses.replace(faults.HEALTHY, before=True)
    assert faults.diagnosis(plant, faults.SINUSOID, 0).findings == ()


# --- remedies --------------------------------------------------------------------------------------------

#: Plants whose finding is an error that a setting mends; the others are in the data or in code.
MENDED = {
    "inner rate 1": "NONFINITE",
    "inner rate far too large": "INNER_DIVERGENCE",
    "chaotic inner loop": "INNER_CHAOS",
    "an outer rate that moves nothing": "STALLED",
    "inner rate 1e-6": "NO_ADAPTATION",
}


def mended(plant: Any, remedy: dict[str, Any]) -> Any:
    """The plant with settings changed as a remedy says; a fault that is no setting stays planted."""
    for name, value in remedy.items():
        group, _, last = name.rpartition(".")
        field = {"algorithm": "settings", "optimizer": "optimizer", "probe": "probe", "": "outer"}[group]
        own = {n: v for n, v in getattr(plant, field).items() if n != "sinusoid"}
        own |= getattr(plant, field).get("sinusoid", {})
        plant = dataclasses.replace(plant, **{field: own | {last: value}})
    return plant


def run(plant: Any, folder: Path) -> tuple[dict[str, Finding], float]:
    """The findings of a run and its last loss on the probe, where a task that is not finite is infinite."""
    faults.diagnosis(plant, faults.SINUSOID, 0, path=folder)
    history = History.read(folder)
    last = history.series("post", split="val").last
    return found(diagnose(history)), float(np.nan_to_num(last, nan=np.inf).mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", MENDED)
def test_what_an_error_proposes_mends_the_run(name: str, tmp_path: Path) -> None:
    """The finding is gone, and the run ends with a lower loss on the same tasks."""
    plant, id = faults.FAULTS[name], MENDED[name]
    broken, before = run(plant, tmp_path / "broken")
    assert broken[id].severity is Severity.ERROR
    assert broken[id].remedy
    after_it, after = run(mended(plant, dict(broken[id].remedy)), tmp_path / "mended")
    assert id not in after_it
    assert after < before


@pytest.mark.slow
def test_a_gradient_that_is_wrong_is_mended_by_an_exact_path() -> None:
    for name in ("sign of the gradient", "first order passed off as exact"):
        plant = faults.FAULTS[name]
        remedy = found(faults.diagnosis(plant, faults.SINUSOID, 0))["META_GRADIENT_WRONG"].remedy
        assert found(faults.diagnosis(dataclasses.replace(plant, **remedy), faults.SINUSOID, 0)) == {}


def test_every_error_of_the_table_is_mended_or_is_no_setting() -> None:
    """So that a new plant has its remedy tested, or its exemption here."""
    in_data_or_code = {
        "inputs that are no numbers",
        "detached adaptation",
        "dead units",
        "support labels go wrong",
        "tasks that carry their number",
        "state on the learner",
        "support among the queries",
        "sign of the gradient",
        "first order passed off as exact",
    }
    errors = {
        "NONFINITE",
        "INNER_DIVERGENCE",
        "INNER_CHAOS",
        "META_GRAD_ZERO",
        "META_GRADIENT_WRONG",
        "STALLED",
        "REGRESSION",
        "NO_ADAPTATION",
        "MEMORISATION",
        "STATE_LEAK",
        "QUERY_LEAK",
    }
    planted = {name for name in ON_SINUSOIDS if faults.FAULTS[name].finding in errors}
    assert planted == set(MENDED) | in_data_or_code
