"""The estimator that comes with the package, on a simulated head and on real T1w scans."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from scipy import ndimage

from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.core.rng import stream
from anystroke.core.volume import Volume
from anystroke.simulation.cohorts import Pack
from anystroke.simulation.settings import SynthesisSettings
from anystroke.tasks.qmri.cases import MapTargetSettings
from anystroke.tasks.qmri.predict import Estimator, QmriEstimate, estimate_maps, estimate_qmri
from anystroke.tasks.qmri.validate import Head, MapErrors, simulated_heads

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
LABELS = {"white_matter": (2, 41), "grey_matter": (3, 42), "csf": (4, 43)}


def _head(names: Sequence[str]) -> Head:
    looks = SynthesisSettings(preset="estimator", fat_suppression={})
    target = MapTargetSettings(field_strength=3.0)
    [head] = simulated_heads(Pack([mni_anatomy()], []), looks, names=names, target=target, count=1, seed=2)
    return head


def test_maps_of_a_simulated_head_are_near_the_truth() -> None:
    estimator = Estimator.open()
    names = estimator.config.maps
    head = _head(names)
    found = estimate_maps(Volume(head.image[None], AFFINE), estimator)
    errors = MapErrors(names)
    errors.add(torch.cat([found[name].data for name in names]), head.maps, head.classes)
    limits = {"r1": 0.15, "proton_density": 0.08, "r2star": 0.3, "mt_saturation": 0.3}
    for (tissue, name), error in errors.result().items():
        if tissue in ("grey_matter", "white_matter"):
            assert abs(error.bias) < limits[name] * error.truth, (tissue, name)


def test_air_with_noise_has_no_maps() -> None:
    head = _head(["proton_density", "r1"])
    sd = 0.01 * float(head.image.max())
    first, second = (sd * torch.randn(head.image.shape, generator=stream(1, name)) for name in "ab")
    image = ((head.image + first).square() + second.square()).sqrt()
    found = estimate_maps(Volume(image[None], AFFINE), Estimator.open())
    nothing = ndimage.binary_erosion((head.image == 0).numpy(), iterations=3)
    assert nothing.sum() > 100_000
    assert float((found["proton_density"].data[0].numpy()[nothing] > 0).mean()) < 0.05


@pytest.fixture(scope="module")
def real(data_dir: Path) -> QmriEstimate:
    return estimate_qmri(data_dir / "scans" / "aomic_sub-0002" / "T1.mgz")


def test_ratios_of_tissues_on_a_real_scan(real: QmriEstimate, data_dir: Path) -> None:
    labels = Volume.load(data_dir / "scans" / "aomic_sub-0002" / "aseg.mgz")
    numbers = labels.resample_to(real.scan.affine, real.scan.shape, "nearest").data[0].round()
    inside = {name: torch.isin(numbers, torch.tensor(values).float()) for name, values in LABELS.items()}
    median = {
        name: {tissue: float(real.maps[name].data[0][where].median()) for tissue, where in inside.items()}
        for name in ("r1", "mt_saturation")
    }
    assert 1.3 < median["r1"]["white_matter"] / median["r1"]["grey_matter"] < 1.7
    assert 1.5 < median["mt_saturation"]["white_matter"] / median["mt_saturation"]["grey_matter"] < 2.2
    assert median["r1"]["csf"] < median["r1"]["grey_matter"]


def test_the_real_scan_simulated_again_is_like_it(real: QmriEstimate) -> None:
    assert real.correlation > 0.9
    assert real.warnings == ()
