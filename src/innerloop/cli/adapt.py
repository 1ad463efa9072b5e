"""`innerloop adapt`: new classes from a few images each, and a label for other images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerloop.cli.options import HELP, JSON, Option, help_page, one_positional, simple
from innerloop.cli.texts import table
from innerloop.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

    from innerloop.training.run import Run

OPTIONS = (
    Option("support", "a folder with one sub-folder of images for each class", "DIR"),
    Option("query", "an image, or a folder of images, to label", "PATH"),
    Option("inner_steps", "steps of adaptation", "N", "the learner's own at test"),
    Option(
        "invert",
        "make dark ink on light paper bright on black: yes, no, or auto, as in training",
        "WHEN",
        "auto",
    ),
    Option("save", "write the adapted model to this folder, for load_adapted", "DIR"),
    JSON,
    HELP,
)
INVERT = ("auto", "yes", "no")


def run(argv: list[str]) -> int:
    parsed = simple(argv, OPTIONS, "adapt")
    if parsed.flag("help"):
        print(help_page("adapt RUN --support DIR --query PATH [options]", _ABOUT, OPTIONS))
        return 0
    path = one_positional(parsed, "RUN", "adapt")
    for name in ("support", "query"):
        if name not in parsed.options:
            raise ConfigError(f"no --{name}", expected="--support DIR and --query PATH", do=f"add --{name}")
    support, query = Path(parsed.options["support"]), Path(parsed.options["query"])
    save = Path(parsed.options["save"]) if "save" in parsed.options else None
    from innerloop.training.components import converted
    from innerloop.training.folder import RunFolder

    steps = converted(int | None, parsed.options.get("inner_steps"), "--inner-steps")
    invert = _invert(parsed.options.get("invert", "auto"))
    RunFolder(path).check()
    if save is not None and save.exists() and (not save.is_dir() or any(save.iterdir())):
        raise ConfigError(
            f"--save {save}, which exists", expected="a new or empty folder", do="choose another one"
        )
    classes = _support_files(support)
    queries = images_at(query)
    from innerloop.training.run import load

    loaded = load(path)
    read = Reader(loaded, invert)
    labels = [name for name, files in classes.items() for _ in files]
    x = read.all([file for files in classes.values() for file in files])
    adapted = loaded.adapt(x, labels, inner_steps=steps)
    chances = adapted.predict_proba(read.all(queries))
    if save is not None:
        loaded.save_adapted(adapted, save)
    found = _predictions(queries, [str(name) for name in adapted.classes or []], chances)
    if parsed.flag("json"):
        print(json.dumps(_facts(loaded, steps) | {"classes": list(classes), "predictions": found}))
        return 0
    rows = [[p["file"], p["label"], f"{p['probability']:.3f}"] for p in found]
    print(table(rows, head=["image", "label", "probability"]))
    if loaded.learner.transductive:
        print("\nBatchNorm is transductive in this run: a label may depend on the other query images")
    if save is not None:
        print(f"\nadapted model {save}")
    return 0


class Reader:
    """Reads images as a run's tasks have them: shape, channels and polarity.

    Args:
        run: the run whose tasks decide.
        invert: `yes`, `no`, or `auto`: as the tasks read their own images; where these are ink on paper
            made bright on black, an image is turned around if its border is bright.
    """

    def __init__(self, run: Run, invert: str) -> None:
        shape = run.spec.input_shape
        if len(shape) != 3 or shape[1] != shape[2] or shape[0] not in (1, 3):
            raise ConfigError(
                f"a run on {run.config.tasks['name']}, whose inputs have shape {shape}",
                expected="a run on square images, grey or in colour",
                do="adapt it in Python: il.load(path).adapt(x, y)",
            )
        self.channels, self.size, _ = shape
        # ImageFolder says whether it inverts; sources of characters always have ink = 1.
        own = run.config.tasks.get("invert")
        self.invert = invert if invert != "auto" or own is None else ("yes" if own else "no")

    def all(self, files: list[Path]) -> torch.Tensor:
        """Images as the model takes them, float32 [N, C, size, size] in [0, 1]."""
        import torch

        return torch.stack([self._one(file) for file in files])

    def _one(self, file: Path) -> torch.Tensor:
        import torch

        from innerloop.tasks.images import read_image

        image = torch.tensor(read_image(file, self.size, grey=self.channels == 1)).float() / 255
        border = [image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]]
        bright = bool(torch.cat([side.flatten() for side in border]).median() > 0.5)
        turn = self.invert == "yes" or (self.invert == "auto" and bright)
        return 1 - image if turn else image


def images_at(path: Path) -> list[Path]:
    """The image itself, or the images in a folder and below it, sorted."""
    from innerloop.tasks.images import SUFFIXES

    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not found:
        raise DataError(
            f"folder {str(path)!r} without images", expected="image files in it", do="check the path"
        )
    return found


def _support_files(root: Path) -> dict[str, list[Path]]:
    from innerloop.tasks.image_folder import class_folders

    folders = class_folders(root)
    if len(folders) < 2:
        raise DataError(
            f"folder {str(root)!r} with one class", expected="two or more", do="add a sub-folder a class"
        )
    return {folder.name: images_at(folder) for folder in folders}


def _predictions(files: list[Path], classes: list[str], chances: torch.Tensor) -> list[dict[str, Any]]:
    result = []
    for file, row in zip(files, chances.tolist(), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        every = {name: round(p, 6) for name, p in zip(classes, row, strict=True)}
        said = {"label": classes[best], "probability": round(row[best], 6)}
        result.append({"file": str(file)} | said | {"probabilities": every})
    return result


def _facts(run: Run, steps: int | None) -> dict[str, Any]:
    """What else a prediction depends on."""
    learner = run.learner
    return {
        "checkpoint_step": run.step,
        "inner_steps": learner.test_inner_steps if steps is None else steps,
        "batch_norm": learner.batch_norm if learner.net.has_batch_norm else None,
        "transductive": learner.transductive,
    }


def _invert(value: str) -> str:
    if value not in INVERT:
        raise ConfigError(f"--invert {value}", expected=f"one of {', '.join(INVERT)}", do="choose one")
    return value


_ABOUT = """Learns the classes that are the sub-folders of --support, and prints a label and its probability
for each image of --query. Images are resized to what the run was trained on."""
