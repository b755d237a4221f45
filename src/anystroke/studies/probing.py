"""What the features of encoders hold: patient, contrast and scanner; of simulated patients and real scans."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anystroke.anatomy.lesions.made_up import blob_bank
from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.core.rng import stream
from anystroke.core.tables import write_table
from anystroke.core.volume import Volume
from anystroke.evaluation.representations import check_disjoint, linear_probe, retrieve
from anystroke.io.formats import read_scan
from anystroke.io.names import image_stem
from anystroke.models.checkpoints import model_facts, parameter_count
from anystroke.reports.features import FeatureSet, write_feature_page
from anystroke.simulation.cohorts import Pack, held_out_pack
from anystroke.simulation.generator import Generator
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.pretraining.predict import FeatureModel
from anystroke.tasks.pretraining.validate import moved_at_random

_HEAD_MM = (192.0, 224.0, 192.0)
_BY = ("patient", "weighting", "field")
_READ = ("weighting", "field", "anatomy")


@dataclass(frozen=True)
class ProbeSettings:
    """Which scans features are of.

    Attributes:
        patients: Simulated ones.
        weightings: Contrasts of each.
        fields: Field strengths in T that patients are scanned at, in turn.
        preset: Protocols.
        seed: Decides all that is random.
    """

    patients: int = 24
    weightings: tuple[str, ...] = ("T1w", "T2w", "FLAIR", "DWI")
    fields: tuple[float, ...] = (1.5, 3.0)
    preset: str = "realistic"
    seed: int = 1


def pack_to_probe(data: Path | None) -> Pack:
    """Return the anatomies and masks that are held out of a run's packed data, or those of the package.

    Args:
        data: Folder of packed data; None for the package's.
    """
    return Pack([mni_anatomy()], blob_bank(20, seed=1)) if data is None else held_out_pack(data)


def check_unseen(model: str | Path, pack: Pack) -> None:
    """Refuse patients that a model has learnt from, as far as its configuration says which those are.

    Args:
        model: A shipped model's name or a folder.
        pack: What patients are made of.

    Raises:
        ValueError: There is one.
        CheckpointError: There is no such model.
    """
    learnt = model_facts(model)["training"].get("anatomies", [])
    check_disjoint([str(name) for name in learnt], [anatomy.name for anatomy in pack.anatomies])


def simulated_scans(
    pack: Pack, settings: ProbeSettings, *, spacing: float, divisor: int
) -> Iterator[tuple[Volume, dict[str, str]]]:
    """Simulate patients, each by every contrast, and each scan of them in a pose of its own.

    Args:
        pack: Anatomies and masks.
        settings: Which.
        spacing: Voxel size in mm.
        divisor: Sides are multiples of it.

    Yields:
        A scan, and what is known of it.
    """
    x, y, z = (divisor * int(-(-side // (spacing * divisor))) for side in _HEAD_MM)
    looks = SynthesisSettings(spacing=spacing, shapes=((x, y, z),), preset=settings.preset, cut=0.0)
    generator = Generator(looks, pack.masks)
    for number in range(settings.patients):
        anatomy = pack.anatomies[number % len(pack.anatomies)]
        field = settings.fields[number % len(settings.fields)]
        rng = stream(settings.seed, "probe", number)
        key = int(stream(rng.initial_seed(), "key").initial_seed())
        patient = generator.patient(anatomy, key=key, shown_on="any")
        for scan, weighting in enumerate(settings.weightings):
            sample = generator.scan(patient, scan=scan, weighting=weighting, field_strength=field)
            image = moved_at_random(
                sample.image, spacing=spacing, rng=stream(settings.seed, "moved", number, scan)
            )
            yield (
                Volume(image[None], sample.affine),
                {
                    "patient": f"{anatomy.name} {number}",
                    "anatomy": anatomy.name,
                    "weighting": weighting,
                    "field": f"{sample.protocol.field_strength:g} T",
                },
            )


def probe(
    models: Sequence[str | Path],
    folder: Path,
    *,
    settings: ProbeSettings,
    data: Path | None = None,
    scans: Sequence[Path] = (),
) -> Path:
    """Look at the features of encoders, and write a page.

    Args:
        models: Shipped names or folders of encoders.
        folder: Gets the page, pictures and tables.
        settings: Which scans are simulated.
        data: Folder of packed data whose held-out patients are scanned; None for the package's.
        scans: Real scans to show beside.

    Returns:
        The page.

    Raises:
        ValueError: A patient was learnt from, or there are too few.
        CheckpointError: A model cannot be used.
        VolumeError: A scan cannot be used.
    """
    pack = pack_to_probe(data)
    sets, retrieval, probes, plain = [], [], [], []
    folder.mkdir(parents=True, exist_ok=True)
    for name in models:
        check_unseen(name, pack)
        model = FeatureModel.load(name)
        of = _features(model, pack, settings, scans)
        sets.append(of)
        count = settings.patients * len(settings.weightings)
        found = _retrieved(of, settings)
        retrieval += [{"encoder": of.name, **row} for row in found]
        probes += [{"encoder": of.name, **row} for row in _probed(of, count)]
        plain.append({"encoder": of.name, "parameters": f"{parameter_count(model.encoder):,}"})
        _write_features(of, folder / f"features_{of.name}.tsv")
    write_table(folder / "retrieval.tsv", tuple(retrieval[0]), retrieval)
    if probes:
        write_table(folder / "probes.tsv", tuple(probes[0]), probes)
    notes = [
        f"{settings.patients} simulated patients of {len(pack.anatomies)} anatomies, each by "
        f"{', '.join(settings.weightings)}, at {' or '.join(f'{each:g} T' for each in settings.fields)}; "
        f"{len(scans)} real scans beside.",
    ]
    tables = {
        "Encoders": plain,
        "The same patient found again by a scan of another contrast": retrieval,
        "What a linear layer reads, of patients that it did not learn from": probes,
    }
    return write_feature_page(folder, sets, tables, by=_BY, notes=notes)


def _features(model: FeatureModel, pack: Pack, settings: ProbeSettings, scans: Sequence[Path]) -> FeatureSet:
    rows, facts = [], []
    config = model.config
    for volume, known in simulated_scans(pack, settings, spacing=config.spacing, divisor=config.divisor):
        rows.append(model.of_image(volume.data[0]).numpy())
        facts.append(known)
    for path in scans:
        rows.append(model.of_scan(read_scan(path)).numpy())
        facts.append({"patient": "", "anatomy": image_stem(path), "weighting": "", "field": ""})
    return FeatureSet(config.name, np.stack(rows), facts)


def _retrieved(of: FeatureSet, settings: ProbeSettings) -> list[dict[str, str]]:
    """Return a row for each pair of contrasts, after one for all of them."""
    rows, everything = [], []
    width = of.features.shape[1]
    count = settings.patients * len(settings.weightings)
    scanned = of.features[:count].reshape(settings.patients, len(settings.weightings), width)
    for a, b in combinations(range(len(settings.weightings)), 2):
        found = retrieve(scanned[:, a], scanned[:, b])
        everything.append(found)
        rows.append(
            {
                "contrasts": f"{settings.weightings[a]}, {settings.weightings[b]}",
                "found first": f"{found.first:.3f}",
                "mean 1 / rank": f"{found.reciprocal_rank:.3f}",
                "cosine, same patient": f"{found.same:.3f}",
                "cosine, other patients": f"{found.other:.3f}",
            }
        )
    whole = {
        "contrasts": "all pairs",
        "found first": f"{np.mean([each.first for each in everything]):.3f}",
        "mean 1 / rank": f"{np.mean([each.reciprocal_rank for each in everything]):.3f}",
        "cosine, same patient": f"{np.mean([each.same for each in everything]):.3f}",
        "cosine, other patients": f"{np.mean([each.other for each in everything]):.3f}",
    }
    return [whole, *rows]


def _probed(of: FeatureSet, count: int) -> list[dict[str, str]]:
    rows = []
    facts = of.facts[:count]
    patients = [fact["patient"] for fact in facts]
    for what in _READ:
        labels = [fact[what] for fact in facts]
        if len(set(labels)) < 2:
            continue
        found = linear_probe(_finite(of.features[:count]), labels, patients)
        rows.append(
            {
                "read": what,
                "balanced accuracy": f"{found.balanced_accuracy:.3f}",
                "by chance": f"{found.chance:.3f}",
                "scans tested": str(found.test),
            }
        )
    return rows


def _finite(features: NDArray[np.floating]) -> NDArray[np.floating]:
    if not np.isfinite(features).all():
        raise ValueError("expected finite features, but the encoder gives others; train it again")
    return features


def _write_features(of: FeatureSet, path: Path) -> None:
    columns = [f"feature_{number}" for number in range(of.features.shape[1])]
    rows = [
        {**fact, **dict(zip(columns, row.tolist(), strict=True))}
        for fact, row in zip(of.facts, of.features, strict=True)
    ]
    write_table(path, (*of.facts[0], *columns), rows)
