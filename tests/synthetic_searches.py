"""What a search for a trade-off may have found, made up, as its `front.json` holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from innerloop.diagnose.anchors import Anchors, Outcome
from innerloop.diagnose.tradeoff import Candidate, judge_tradeoff

_SPREAD = (-0.01, 0.0, 0.01)  # of three seeds


def front(lost: float = 0.4, **given: Any) -> dict[str, Any]:
    """A search of three trials: 3 is the knee, the front beats 4 for sure, and 5 is unfit.

    Args:
        lost: what naive training forgets; 0 leaves the axes without a unit.
        given: entries of `front.json` that are other than usual.
    """
    joint = [Outcome(0.6 + d, None, None, 0.65, 0.65, None, 0.01) for d in _SPREAD]
    anchors = Anchors(_outcomes(0.6, lost), joint)
    found = [
        Candidate(3, {"retain.replay": 0.5}, _outcomes(0.58, 0.1), 1.0, 30.0),
        Candidate(4, {"retain.l2": 3.0}, _outcomes(0.3, 0.3), 1.0, 30.0),
        Candidate(5, {"note": "<b>&"}, _outcomes(0.7, 0.0), 2.0, 30.0, ("INNER_DIVERGENCE",)),
    ]
    judged = judge_tradeoff(anchors, found).to_dict()
    whole = {"algorithm": "MAML", "tasks": "SinusoidFamilies", "trials": 3, "seeds": [0, 1, 2]}
    whole |= {"fresh_seeds": None, "space": {}, "running_elsewhere": 0, "failed": []}
    return json.loads(json.dumps(whole | {"reported": judged, "search": judged} | given, allow_nan=False))


def write_search(folder: Path, told: dict[str, Any] | None = None) -> Path:
    """Write the folder of a made-up search."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "front.json").write_text(json.dumps(front() if told is None else told), "utf-8")
    return folder


def _outcomes(gain: float, lost: float) -> list[Outcome]:
    return [Outcome(gain + d, lost - d, 0.1, 0.7, 0.7 - lost, 0.3, 0.01, 0.01, 0.01) for d in _SPREAD]
