"""Pages of an explanation: one of the model, and one of each patient."""

import base64
import tempfile
from pathlib import Path

import numpy as np
import torch

from anystroke.anatomy.regions.grid import affine
from anystroke.core.arrays import Array
from anystroke.core.tables import Cell, write_table
from anystroke.core.volume import Volume
from anystroke.reports.glass_brain import glass_brain
from anystroke.reports.outcome import bars, figure_text
from anystroke.reports.theme import write_page
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.explain import Explanation, column_effects, one_number, patients_like, region_map
from anystroke.tasks.outcome.files import OutcomeModel
from anystroke.tasks.outcome.predict import predict_rows, prediction_columns

_SHOWN = 12


def write_explanation(
    folder: Path, model: OutcomeModel, cohort: OutcomeCohort, explanation: Explanation, *, patients: int = 20
) -> Path:
    """Write what predictions rest on.

    Args:
        folder: Made if missing; gets report.html, importance.tsv, regions.tsv, regions.nii.gz,
            saliency.nii.gz of a network, predictions.tsv, and a page a patient.
        model: That was explained.
        cohort: It was explained with.
        explanation: Of `explain_model`.
        patients: How many get a page, the first of the table.

    Returns:
        The page of the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = predict_rows(model, cohort)
    write_table(folder / "predictions.tsv", prediction_columns(model.config), rows)
    importance: list[dict[str, Cell]] = [
        {"name": name, "importance": value} for name, value in explanation.importance
    ]
    write_table(folder / "importance.tsv", ("name", "importance"), importance)
    pictures = {}
    shown = list(explanation.importance)[:_SHOWN]
    chart = bars([name for name, _ in shown], [value for _, value in shown], label=explanation.measure)
    if explanation.regions:
        table: list[dict[str, Cell]] = [
            {"region": name, "change": value} for name, value in explanation.regions.items()
        ]
        write_table(folder / "regions.tsv", ("region", "change"), table)
        painted = region_map(explanation.regions)
        _save_map(painted, folder / "regions.nii.gz")
        what = "damage" if cohort.lesions else "asymmetry"
        pictures[f"Where {what} changes predictions most"] = _glass(painted)
    if explanation.saliency is not None:
        _save_map(explanation.saliency, folder / "saliency.nii.gz")
        pictures["Where the network is sensitive (SmoothGrad)"] = _glass(explanation.saliency)
    regions = list(explanation.regions.items())[:_SHOWN]
    region_chart = (
        bars(
            [n for n, _ in regions],
            [v for _, v in regions],
            label="mean change of the prediction"
            if cohort.lesions
            else "mean size of the change of the prediction",
            signed=bool(cohort.lesions),
        )
        if regions
        else ""
    )
    pages = [
        _patient_page(folder, model, cohort, explanation, k, rows)
        for k in range(min(patients, len(cohort.ids)))
    ]
    page = folder / "report.html"
    write_page(
        page,
        "outcome_explanation.html",
        config=model.config.model_dump(),
        count=len(cohort.ids),
        chart=chart,
        region_chart=region_chart,
        exchanged=bool(cohort.lesions),
        pictures=pictures,
        pages=pages,
        figure=figure_text,
    )
    return page


def _patient_page(
    folder: Path,
    model: OutcomeModel,
    cohort: OutcomeCohort,
    explanation: Explanation,
    k: int,
    rows: list[dict[str, Cell]],
) -> dict[str, str]:
    """Write the page of a patient; returns its id and file name."""
    name = cohort.ids[k]
    effects = {**column_effects(model.fitted, cohort, k), **explanation.by_patient.get(name, {})}
    drivers = sorted(effects.items(), key=lambda item: -abs(item[1]))[:_SHOWN]
    drivers = [(each, value) for each, value in drivers if value != 0]
    predicted = one_number(model.fitted, model.fitted.raw(cohort))
    like = [
        {
            "name": cohort.ids[j],
            "volume": cohort.lesions[j].volume_ml if cohort.lesions else float("nan"),
            "prediction": float(predicted[j]),
            "target": _target_text(model, float(cohort.target[j])),
        }
        for j in patients_like(cohort, k)
    ]
    known = [
        (column, float(value)) for column, value in zip(cohort.column_names, cohort.columns[k], strict=True)
    ]
    chart = (
        bars([d for d, _ in drivers], [v for _, v in drivers], label="change of the prediction", signed=True)
        if drivers
        else ""
    )
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    page = folder / f"{safe}.html"
    write_page(
        page,
        "outcome_patient.html",
        name=name,
        exchanged=bool(cohort.lesions),
        config=model.config.model_dump(),
        row=rows[k],
        volume=cohort.lesions[k].volume_ml if cohort.lesions else None,
        glass=_glass(cohort.lesions[k].dense()) if cohort.lesions and len(cohort.lesions[k].voxels) else "",
        known=known,
        chart=chart,
        like=like,
        figure=figure_text,
    )
    return {"name": name, "page": page.name}


def _target_text(model: OutcomeModel, value: float) -> str:
    if np.isnan(value):
        return "not known"
    target = model.config.target
    return f"{value:g}" if target.kind == "number" else target.classes[int(value)]


def _save_map(values: Array, path: Path) -> None:
    Volume(torch.from_numpy(values)[None], torch.from_numpy(affine()), 4).save(path, overwrite=True)


def _glass(values: Array) -> str:
    """Draw a map on the glass brain; its strongest part where it is no lesion."""
    most = float(values.max())
    scaled = values / most if most > 0 else values
    shown = scaled if set(np.unique(scaled)) <= {0.0, 1.0} else np.where(scaled >= 0.5, scaled, 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "glass.png"
        glass_brain(
            Volume(torch.from_numpy(shown.astype(np.float32))[None], torch.from_numpy(affine()), 4), path
        )
        return base64.b64encode(path.read_bytes()).decode()
