import torch
from stress import GROUPS, patients, summary

from anystroke.anatomy.tissues.mni import mni_anatomy
from anystroke.simulation.cohorts import Pack


def test_heads_of_a_group_have_no_lesion_and_its_contrasts() -> None:
    pack = Pack([mni_anatomy()], [])
    found = list(patients(pack, "fibres of one direction", 2))
    again = next(patients(pack, "fibres of one direction", 1))
    assert torch.equal(found[0].image, again.image)
    for sample in found:
        assert not sample.record["lesions"]
        assert sample.record["scanner"]["directions"] == 1
    settings = [sample.record["settings"]["skull_strip"] for sample in found]
    assert settings == [0.0, 1.0]


def test_what_is_marked_is_said_by_group_and_model() -> None:
    volumes = {"a": (0.0, 0.0, 1.0, 3.0), "b": (0.0, 0.4, 0.0, 0.0)}
    rows = [
        {"group": "noise", "model": model, "marked_ml": str(volume)}
        for model, of in volumes.items()
        for volume in of
    ]
    found = summary(rows)
    assert set(found) == {"noise"} < set(GROUPS)
    assert found["noise"]["a"] == {
        "n": 4,
        "marked": 2,
        "mean_ml": 1.0,
        "upper_quartile_ml": 1.5,
        "largest_ml": 3.0,
    }
    assert found["noise"]["b"]["marked"] == 0
