"""Pages to read: one for each scan and one for all, without anything from the network."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anystroke.reports.theme import embed, write_page

CITATIONS = {
    "Chalcroft et al., 2024": "Chalcroft L, Pappas I, Price CJ, Ashburner J. Synthetic data for robust "
    "stroke segmentation. arXiv:2404.01946, 2024.",
    "Billot et al., 2023": "Billot B et al. SynthSeg: Segmentation of brain MRI scans of any contrast and "
    "resolution without retraining. Med Image Anal 86:102789, 2023.",
    "Wang et al., 2019": "Wang G et al. Aleatoric uncertainty estimation with test-time augmentation for "
    "medical image segmentation with convolutional neural networks. Neurocomputing 338:34-45, 2019.",
    "Fonov et al., 2011": "Fonov V et al. Unbiased average age-appropriate atlases for pediatric studies. "
    "NeuroImage 54:313-327, 2011.",
}
"""Works that the methods may name, by how they are named there."""


def citations_of(methods: str) -> list[str]:
    """List the works that a text names, as references.

    Example:
        >>> [work.split()[0] for work in citations_of("in the manner of Billot et al., 2023")]
        ['Billot']
    """
    return [work for name, work in CITATIONS.items() if name in " ".join(methods.split())]


def methods_text(facts: dict[str, Any]) -> str:
    """Describe what was done, as a methods section would.

    Args:
        facts: A mask's sidecar.

    Returns:
        A few sentences.
    """
    model = facts["Model"]
    settings = facts["Settings"]
    fused = settings.get("fused_with") or []
    name = f"model {model['Name']} version {model['Version']} (SHA-256 {model['SHA256'][:12]})"
    mirrored = " and mirrored left to right" if facts["MirrorAveraging"] else ""
    minimum = facts["MinimumLesionVolume"]
    smallest = f", in components of at least {minimum:g} ml" if minimum else ""
    parts = [
        f"Stroke lesions were segmented with anystroke {version('anystroke')}, {name}, a convolutional "
        "network trained on simulated scans of any contrast (in the manner of Billot et al., 2023, and "
        "Chalcroft et al., 2024).",
        f"Scans were processed by the preset {facts['Preset']}{mirrored}; a voxel was called lesion where "
        f"its probability reached {facts['Threshold']:g}{smallest}.",
    ]
    views = len(facts["TestTimeViews"])
    if views > 1:
        parts.append(
            f"Each scan was shown to the network in {views} ways, with other grey values, voxels or sides, "
            "and the log-odds were averaged (test-time augmentation; Wang et al., 2019)."
        )
    if "adc_exponential" in facts["Seconds"]:
        parts.append(
            "ADC maps were also segmented as their exponential, in which fluid is dark and a fresh stroke is "
            "bright; the log-odds of both were averaged."
        )
    if "second_look" in facts["Seconds"]:
        parts.append(
            "Wherever the first network took a lesion to be possible, a second network, which knew what the "
            "first had said, looked again at a finer grid; the log-odds of both were averaged, those of the "
            "second counting more."
        )
    if facts.get("LesionProbabilities") is not None:
        parts.append(
            "How likely each part of the mask is a lesion at all was told by a logistic regression of its "
            "probabilities, size, place, number and contrast, learnt of simulated patients."
        )
    if fused:
        parts.append(
            f"{len(fused) + 1} contrasts of each patient were segmented alone, registered rigidly by Mattes' "
            f"mutual information (SimpleITK), and fused by the mean {settings.get('fusion', 'probability')}."
        )
    if facts["LesionVolumeInterval"]:
        parts.append(
            "The interval of the volume held the true volume of "
            f"{100 * facts['LesionVolumeIntervalRate']:.0f} % of simulated patients with a similar expected "
            "volume (split conformal prediction); how often it does for real ones is not known. The interval "
            "of a single lesion is made likewise, of the lesions that were found in those patients."
        )
    if (facts.get("MNI") or {}).get("Affine"):
        parts.append(
            "Places in MNI space (MNI152NLin2009aSym; Fonov et al., 2011) come from an affine registration "
            "of the brain by Mattes' mutual information (SimpleITK), and glass brains from nilearn."
        )
    return " ".join(parts)


def write_scan_report(
    path: Path,
    *,
    name: str,
    picture: Path,
    glass_brain: Path | None = None,
    facts: dict[str, Any],
    columns: Sequence[str],
    lesions: Sequence[Sequence[str]],
) -> None:
    """Write the page of one scan.

    Args:
        path: The HTML file.
        name: Of the scan.
        picture: PNG that is put into the page.
        glass_brain: PNG of the lesion in MNI space, if there is one.
        facts: The mask's sidecar.
        columns: Names of the columns of the table of lesions.
        lesions: Its rows; columns in which nothing is known are left out.
    """
    methods = methods_text(facts)
    known = [i for i in range(len(columns)) if any(row[i] != "n/a" for row in lesions)]
    write_page(
        path,
        "scan.html",
        name=name,
        picture=embed(picture),
        glass_brain=embed(glass_brain) if glass_brain else "",
        territories=facts.get("TerritoryVolumes", {}),
        facts=facts,
        columns=[columns[i] for i in known],
        lesions=[[row[i] for i in known] for row in lesions],
        methods=methods,
        citations=citations_of(methods),
    )


def write_group_report(
    path: Path,
    *,
    rows: Sequence[dict[str, str]],
    methods: str,
    others: Sequence[str] = (),
    glass_brain: Path | None = None,
    in_mni: int = 0,
) -> None:
    """Write the page of all scans.

    Args:
        path: The HTML file.
        rows: Of the table; ``mosaic`` and ``report`` are paths relative to ``path``, or empty.
        methods: Text on what was done.
        others: Columns of the participants to show after ours.
        glass_brain: PNG of the overlap of all lesions in MNI space, if there is one.
        in_mni: Number of scans in it.
    """
    volumes = [float(row["volume_ml"]) for row in rows]
    write_page(
        path,
        "group.html",
        rows=rows,
        others=others,
        largest=max([*volumes, 1e-9]),
        glass_brain=embed(glass_brain) if glass_brain else "",
        in_mni=in_mni,
        doubtful=sum(row["trust"] == "no" for row in rows),
        methods=methods,
        citations=citations_of(methods),
    )
