"""The classes of qSynth: the published numbers, drawn by the published rule; tables that are written."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anystroke.anatomy.tissues.labels import TISSUES
from anystroke.core.rng import stream
from anystroke.qmri.tissue_priors import MAPS, PriorError, TissuePriors, load_table, save_table

PD, R1, R2, R2STAR, MT, ADC = range(6)

# Mean and SD of PD, R1, R2*, MT as in the published training code.
PUBLISHED = {
    "c01": (76.84, 8.44, 0.652, 0.114, 19.84, 10.55, 0.779, 0.274),
    "c02": (75.37, 7.93, 0.788, 0.126, 23.90, 14.47, 1.040, 0.324),
    "c03": (69.79, 5.41, 0.968, 0.088, 22.23, 7.58, 1.500, 0.280),
    "c04": (74.79, 18.17, 0.514, 0.172, 18.34, 14.06, 0.328, 0.341),
    "c05": (63.70, 15.00, 1.340, 0.304, 67.26, 18.32, 0.683, 0.775),
    "c06": (68.11, 12.65, 0.921, 0.213, 48.71, 16.37, 0.727, 0.550),
    "c07": (57.92, 18.19, 1.035, 0.236, 60.57, 19.40, 0.569, 0.744),
    "c08": (49.98, 21.84, 0.864, 0.242, 55.69, 29.86, 0.339, 0.464),
    "c09": (26.90, 16.07, 0.842, 0.204, 40.47, 28.01, 0.169, 0.558),
}


@pytest.fixture(scope="module")
def paper() -> TissuePriors:
    return load_table("paper")


def test_published_numbers(paper: TissuePriors) -> None:
    for name, numbers in PUBLISHED.items():
        row = paper.names.index(name)
        for i, column in enumerate((PD, R1, R2STAR, MT)):
            assert paper.mean[row, column].item() == numbers[2 * i]
            assert paper.sd[row, column].item() == numbers[2 * i + 1]
            assert paper.tag(name, MAPS[column]) == "V"
        assert paper.tag(name, "r2") == paper.tag(name, "adc") == "E"
        assert paper.tag(name, "r1", spread=True) == "E"
    r1 = dict(zip(paper.names, paper.mean[:, R1].tolist(), strict=True))
    assert r1["c03"] > r1["c01"] > r1["lesion"]
    assert bool((paper.mean[:, R2STAR] >= paper.mean[:, R2]).all())


def test_spreads_that_stand_in_are_narrow_median_deviations(paper: TissuePriors) -> None:
    share = paper.sd_of_means / paper.mean
    expected = 0.6745 * torch.tensor([0.02, 0.04, 0.06, 0.08, 0.07, 0.05], dtype=torch.float64)
    rows = [paper.names.index(name) for name in PUBLISHED]
    assert torch.allclose(share[rows], expected.expand(9, 6), rtol=0.01)


def test_drawn_by_the_published_rule(paper: TissuePriors) -> None:
    draws = [paper.sample(stream(seed), ["c03", "c09"]) for seed in range(800)]
    mean = torch.stack([draw.mean for draw in draws]).double()
    sd = torch.stack([draw.sd for draw in draws]).double()
    rows = paper.rows(["c03", "c09"])
    assert torch.allclose(mean.mean(0), paper.mean[rows], rtol=0.01)
    assert torch.allclose(mean.std(0), paper.sd_of_means[rows], rtol=0.1)
    assert torch.allclose(sd.mean(0), 0.1 * paper.sd[rows], rtol=0.03)
    assert torch.allclose(sd.std(0), 0.1 * paper.sd_of_sds[rows], rtol=0.12)
    correlation = torch.corrcoef(mean[:, 0].T) - torch.eye(6)
    assert float(correlation.abs().max()) < 0.15
    freesurfer = replace(paper, sd_temperature=0.01).sample(stream(1), ["c03"])
    usual = paper.sample(stream(1), ["c03"])
    assert torch.allclose(10 * freesurfer.sd, usual.sd)
    assert torch.equal(freesurfer.mean, usual.mean)


def test_every_tissue_has_a_class_and_a_class_is_one_tissue(paper: TissuePriors) -> None:
    lesions = tuple(load_table().names)
    lesions = tuple(name for name in lesions if name not in TISSUES and not name.startswith("tumour"))
    draw = paper.sample(stream(1), TISSUES + lesions, 1.5)
    row = {name: draw.mean[i] for i, name in enumerate(draw.names)}
    assert torch.equal(row["ventricular_csf"], row["sulcal_csf"])
    assert torch.equal(row["chronic_core"], row["gliotic_rim"])
    assert not torch.equal(row["cortical_grey_matter"], row["white_matter"])
    assert torch.equal(draw.mean, paper.sample(stream(1), TISSUES + lesions, 3.0).mean)


@pytest.mark.parametrize("name", ["literature", "paper"])
def test_a_written_table_reads_back(name: str, tmp_path: Path) -> None:
    table, path = load_table(name), tmp_path / "table.toml"
    save_table(table, path)
    again = load_table(path)
    for field in ("mean", "sd_of_means", "sd", "sd_of_sds", "t1_field_exponent"):
        assert torch.equal(getattr(again, field), getattr(table, field))
    assert torch.allclose(again.correlation_factor, table.correlation_factor, atol=1e-5)
    for field in (
        "names",
        "r2_field",
        "field_lines",
        "sources",
        "tags",
        "map_tags",
        "aliases",
        "sd_temperature",
    ):
        assert getattr(again, field) == getattr(table, field)
    with pytest.raises(FileExistsError, match="exists already"):
        save_table(table, path)
    save_table(table, path, overwrite=True)


def test_odd_names_and_sources_survive_writing(tmp_path: Path) -> None:
    table = load_table()
    odd = replace(
        table,
        names=("Hirn, weiß.", *table.names[1:]),
        sources={**table.sources, "Hirn, weiß.": 'says "so"\n\\ and more'},
        tags={**table.tags, "Hirn, weiß.": "E"},
        subjects={"white_matter": (3, 3, 0, 3, 3, 2)},
    )
    save_table(odd, tmp_path / "odd.toml")
    again = load_table(tmp_path / "odd.toml")
    assert again.names[0] == "Hirn, weiß."
    assert again.sources["Hirn, weiß."] == 'says "so"\n\\ and more'
    assert again.subjects == {"white_matter": (3, 3, 0, 3, 3, 2)}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('skin = "c07"', 'skin = "c10"', r"aliases: expected another name .* got skin = 'c10'"),
        ("sd_temperature = 0.1", "sd_temperature = -1", "sd_temperature: expected a number of at least 0"),
        ("sd_temperature = 0.1", "temperature = 0.1", "sampling: unknown key 'temperature'"),
        ('map_tags = { r2 = "E"', 'map_tags = { t2 = "E"', "map_tags must give some of"),
        ("t1_field_exponent = 0.0", "t1_field_exponent = 0.0\nsubjects = [1]", "subjects must be 6 counts"),
    ],
)
def test_wrong_extras_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    source = Path(load_table.__code__.co_filename).with_name("paper_priors.toml").read_text(encoding="utf-8")
    assert old in source
    path = tmp_path / "table.toml"
    path.write_text(source.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(PriorError, match=message):
        load_table(path)


def test_tags_of_numbers() -> None:
    table = load_table()
    assert table.tag("fat", "r1") == "M"
    assert table.tag("fat", "adc") == table.tag("fat", "r1", spread=True) == "E"
    assert table.tag("arterial_blood", "r1") == "V"
    with pytest.raises(PriorError, match="no map 't1'"):
        table.tag("fat", "t1")
