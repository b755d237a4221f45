r"""Judge models of outcomes on made-up patients, of whom it is known what their outcome comes of.

The outcome is a function of damage to two regions, severity and time, see `tasks.outcome.simulated`. A part
that is in the output already is not made again, so that a killed run goes on:

    python benchmarks/outcome_simulated.py --output outcome_simulated.json
    python benchmarks/outcome_simulated.py --output outcome_simulated.json --parts raw --scans 200 \
        --data runs/default/data

Raw scans are of whole heads where the packed data of a training are given, of the package's brain else.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anystroke.anatomy.lesions.bank import LesionMask, LesionSettings
from anystroke.anatomy.regions.grid import affine, tissue
from anystroke.anatomy.regions.regions import region_labels, region_names
from anystroke.anatomy.tissues.anatomies import load_anatomies
from anystroke.anatomy.tissues.deformation import DeformationSettings
from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.core.arrays import Array
from anystroke.core.files import write_json
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.evaluate import OutOfFold, out_of_fold_scores
from anystroke.tasks.outcome.explain import one_number, region_importance
from anystroke.tasks.outcome.features import measure_lesions
from anystroke.tasks.outcome.fitting import fit_model
from anystroke.tasks.outcome.folds import stratified_folds
from anystroke.tasks.outcome.masks import Lesion, load_lesion, scan_in_mni
from anystroke.tasks.outcome.models import FittedModel, find_model_spec
from anystroke.tasks.outcome.scores import bootstrap, scores
from anystroke.tasks.outcome.simulated import PLANTED, simulated_cohort
from anystroke.tasks.outcome.table import OutcomeError, TargetKind
from anystroke.tasks.segmentation.predict import Model, segment

KIND: TargetKind = "two_classes"
TABLES = ("table:ridge", "lesion:ridge", "loads:support-vectors")
MASKED = ("lesion:ridge", "lesion-low-rank:ridge")
SCANNED = ("asymmetry:elastic-net", "asymmetry:ridge", "encoder:ridge", "stitched:lightweight")
PICTURES = ("hybrid:lightweight", "stitched:lightweight")
EXPLAINED = "loads:support-vectors"
SCAN_SPACING = 3.0
SCAN_SHAPE = (64, 76, 64)


def planted() -> Array:
    """Mark the regions whose damage lowers the outcome, bool (91, 109, 91)."""
    numbers = [region_names().index(name) + 1 for name in PLANTED]
    marked = np.isin(region_labels(), numbers)
    marked[marked.shape[0] // 2 :] = False
    return marked


def fitted(name: str, cohort: OutcomeCohort, args: argparse.Namespace) -> FittedModel:
    """Train a model, a network on pictures of fewer pixels."""
    spec = find_model_spec(name)
    if spec.network:
        spec = replace(spec, shrink=args.shrink)
    return fit_model(spec, cohort, KIND, seed=1, epochs=args.epochs)


def predicted(name: str, cohort: OutcomeCohort, args: argparse.Namespace, made: dict[str, Any]) -> None:
    """Predict fold after fold, and measure the saliency of the first network on pictures with symbols."""
    folds = stratified_folds(cohort.target, args.folds, seed=1, classes=True)
    for k in range(args.folds if args.use_folds is None else args.use_folds):
        key = f"{name} fold {k}"
        if key in made["predictions"]:
            continue
        held = np.flatnonzero(folds == k)
        model = fitted(name, cohort.rows(np.flatnonzero(folds != k)), args)
        made["predictions"][key] = [float(x) for x in model.raw(cohort.rows(held))[:, 0]]
        if model.network is not None and k == 0:
            shown = cohort.rows(held[: args.explained])
            made[f"saliency of {name}"] = {
                "SmoothGrad": mass(model.network.saliency(shown)),
                "gradient": mass(model.network.saliency(shown, draws=1, noise=0.0)),
                "patients": len(shown.ids),
            }
        write_json(args.output, made)


def mass(saliency: Array) -> dict[str, float]:
    """Say how much denser saliency is in the planted regions than in the brain, and in its left half."""
    inside, brain = planted(), tissue().template > 0
    shown = brain & (saliency.sum(axis=(0, 1)) > 0)
    left = shown.copy()
    left[shown.shape[0] // 2 :] = False
    of = saliency[inside & shown].mean()
    return {
        "over_brain": float(of / saliency[shown].mean()),
        "over_left_hemisphere": float(of / saliency[left].mean()),
    }


def judged(
    cohort: OutcomeCohort, made: dict[str, Any], args: argparse.Namespace, names: Sequence[str]
) -> None:
    """Score what is predicted so far, the same patients for all models, and test models in pairs."""
    folds = stratified_folds(cohort.target, args.folds, seed=1, classes=True)
    ready = [k for k in range(args.folds) if all(f"{name} fold {k}" in made["predictions"] for name in names)]
    rows = np.flatnonzero(np.isin(folds, ready))
    found = {}
    for name in names:
        raw = np.zeros((1, len(cohort.ids), 1))
        for k in ready:
            raw[0, folds == k, 0] = made["predictions"][f"{name} fold {k}"]
        found[name] = OutOfFold(name, raw[:, rows], folds[None, rows])
    target = cohort.target[rows]
    made["scores"] = {
        "patients": len(rows),
        **{name: out_of_fold_scores(each, target, KIND) for name, each in found.items()},
    }
    hybrid = found.get("hybrid:lightweight")
    made["tests"] = [
        paired(hybrid, found[other], target) for other in names if hybrid and found[other] is not hybrid
    ]


def paired(first: OutOfFold, second: OutOfFold, target: Array) -> dict[str, Any]:
    """Compare areas under the curve by a paired bootstrap over patients."""

    def gap(rows: Array) -> float:
        one, other = (scores(each.mean[rows], target[rows], KIND)["auc"] for each in (first, second))
        return one - other

    low, high = bootstrap(gap, len(target), rng=stream(1, "outcome", "paired"), draws=2000)
    difference = gap(np.arange(len(target)))
    return {"first": first.model, "second": second.model, "difference": difference, "low": low, "high": high}


def regions(cohort: OutcomeCohort, args: argparse.Namespace) -> dict[str, Any]:
    """Rank regions by how far their damage lowers predictions of patients that were not learnt from."""
    folds = stratified_folds(cohort.target, args.folds, seed=1, classes=True)
    model = fitted(EXPLAINED, cohort.rows(np.flatnonzero(folds != 0)), args)
    held = cohort.rows(np.flatnonzero(folds == 0))
    chance = one_number(model, model.raw(held))
    count = min(args.explained, len(held.ids))
    total: dict[str, float] = {}
    for k in range(count):
        for name, value in region_importance(model, held, k, chance).items():
            total[name] = total.get(name, 0.0) + value / count
    ranked = sorted(total.items(), key=lambda pair: pair[1])
    places = {name: rank + 1 for rank, (name, _) in enumerate(ranked)}
    return {
        "model": EXPLAINED,
        "patients": count,
        "rank_of_planted": {name: places.get(f"{name.replace('_', ' ')} left") for name in PLANTED},
        "ranked": [[name, round(value, 4)] for name, value in ranked[:10]],
    }


def as_mask(lesion: Lesion, name: str) -> LesionMask:
    """Return a lesion of the grid of MNI space as the simulation takes it."""
    whole = lesion.dense() >= 0.5
    found = np.nonzero(whole)
    low = [int(axis.min()) for axis in found]
    box = tuple(slice(start, int(axis.max()) + 1) for start, axis in zip(low, found, strict=True))
    matrix = torch.from_numpy(affine()).clone()
    matrix[:3, 3] += matrix[:3, :3] @ torch.tensor(low, dtype=torch.float64)
    return LesionMask(name, torch.from_numpy(whole[box].copy()), matrix)


def scanned(cohort: OutcomeCohort, folder: Path, count: int, data: Path | None) -> tuple[Path, ...]:
    """Simulate a raw T1w scan of each of the first patients, a whole head in a space of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    anatomies = [mni_anatomy()] if data is None else load_anatomies(data / "anatomies.safetensors")
    # The outcome is of the lesion as it was drawn, so that it must not move, nor the head be mirrored.
    still = LesionSettings(
        shape=DeformationSettings(rotation=0, scaling=0, shear=0, translation=0, elastic=0, mirror=0),
        level=0.0,
    )
    settings = SynthesisSettings(
        weighting="T1w",
        spacing=SCAN_SPACING,
        shapes=(SCAN_SHAPE,),
        skull_strip=0.0,
        cut=0.0,
        smooth_spacing=3.0,
        lesions=still,
        deformation=DeformationSettings(mirror=0),
    )
    generator = Generator(settings)
    paths = []
    for k in range(count):
        path = folder / f"{cohort.ids[k]}_T1w.nii.gz"
        if not path.exists():
            mask = as_mask(cohort.lesions[k], cohort.ids[k])
            sample = generator.generate(anatomies[k % len(anatomies)], [mask], key=k + 1, stage="chronic")
            Volume(sample.image[None].float(), sample.affine).save(path)
        paths.append(path)
    return tuple(paths)


def segmented(images: Sequence[Path]) -> list[Lesion | None]:
    """Return the lesions that the default model finds, in MNI space; masks are written beside the scans.

    Returns:
        One a scan; None where the scan cannot be registered or what is marked is no brain, which
        ``anystroke outcome --skip-missing`` leaves out.
    """
    model = Model.open("default")
    lesions: list[Lesion | None] = []
    for path in images:
        mask = path.with_name(path.name.replace("_T1w", "_mask"))
        try:
            scan_in_mni(path)
            segment(path, model).mask.save(mask, overwrite=True)
            lesions.append(load_lesion(mask, path))
        except OutcomeError as error:
            print(error)
            lesions.append(None)
    return lesions


def overlaps(drawn: Sequence[Lesion], found: Sequence[Lesion]) -> dict[str, float]:
    """Say how well lesions were found, in MNI space."""
    pairs = [(one.dense() >= 0.5, other.dense() >= 0.5) for one, other in zip(drawn, found, strict=True)]
    dice = [2 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1.0) for a, b in pairs]
    return {"median_dice": float(np.median(dice)), "missed": float(np.mean(np.equal(dice, 0)))}


def raw_scans(args: argparse.Namespace) -> dict[str, Any]:
    """Predict recovery from raw T1w scans: sections, asymmetry, and masks that `segment` makes of them."""
    cohort = simulated_cohort(args.scans, severity=0.0, time=0.0)
    images = scanned(cohort, args.work, args.scans, args.data)
    seen = replace(cohort, columns=np.empty((args.scans, 0)), column_names=(), images=images)
    opened = segmented(images)
    seen = seen.rows([k for k, lesion in enumerate(opened) if lesion is not None])
    lesions = tuple(lesion for lesion in opened if lesion is not None)
    blind = replace(seen, lesions=(), measured=None)
    found = replace(seen, lesions=lesions, measured=measure_lesions(lesions))
    folds = stratified_folds(seen.target, 3, seed=1, classes=True)
    masks = {"drawn": seen, "segmented": found}
    models = {f"{model}, {of}": (model, each) for of, each in masks.items() for model in MASKED}
    models |= {f"{model}, T1w": (model, blind) for model in SCANNED}
    raw = {name: np.zeros((1, len(lesions), 1)) for name in models}
    for k in range(3):
        learnt, held = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        for name, (model, each) in models.items():
            raw[name][0, held] = fitted(model, each.rows(learnt), args).raw(each.rows(held))
    return {
        "patients": len(lesions),
        "left_out": args.scans - len(lesions),
        "segmented": overlaps(seen.lesions, lesions),
        **{
            name: out_of_fold_scores(OutOfFold(name, predicted, folds[None]), seen.target, KIND)
            for name, predicted in raw.items()
        },
    }


def main() -> None:
    """Make what is missing of the asked parts, and write it down after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("scans"), help="folder of simulated scans")
    parser.add_argument("--data", type=Path, help="folder of packed anatomies, whose heads are scanned")
    parser.add_argument("--parts", default="pictures,regions,raw")
    parser.add_argument("--models", default=",".join((*TABLES, *PICTURES)))
    parser.add_argument("--patients", type=int, default=600)
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--use-folds", type=int, default=None, help="predict so many of them alone")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--shrink", type=int, default=4, help="256 pixels become 256 / N")
    parser.add_argument("--explained", type=int, default=40, help="patients that explanations are of")
    args = parser.parse_args()
    torch.set_num_threads(max(1, torch.get_num_threads()))
    settings = {
        name: getattr(args, name) for name in ("patients", "scans", "folds", "epochs", "shrink", "explained")
    }
    made: dict[str, Any] = {"settings": settings, "predictions": {}}
    if args.output.exists():
        made = json.loads(args.output.read_text(encoding="utf-8"))
        if made["settings"] != settings:
            raise SystemExit(
                f"{args.output} was made with {made['settings']}, expected {settings}; name another file"
            )
    parts: dict[str, Callable[[], Any]] = {
        "regions": lambda: regions(cohort, args),
        "raw": lambda: raw_scans(args),
    }
    wanted = args.parts.split(",")
    cohort = simulated_cohort(args.patients)
    if "pictures" in wanted:
        models = args.models.split(",")
        for name in models:
            predicted(name, cohort, args, made)
        judged(cohort, made, args, models)
        write_json(args.output, made)
    for name in wanted:
        if name in parts and name not in made:
            made[name] = parts[name]()
            write_json(args.output, made)
    print(json.dumps({key: value for key, value in made.items() if key != "predictions"}, indent=1))


if __name__ == "__main__":
    main()
