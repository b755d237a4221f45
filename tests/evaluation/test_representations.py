import numpy as np
import pytest

from anystroke.evaluation.representations import (
    check_disjoint,
    linear_probe,
    peak_signal_to_noise,
    retrieve,
    split_by_patient,
)

RNG = np.random.default_rng(1)


def test_retrieval_against_a_loop() -> None:
    one, two = RNG.normal(size=(7, 5)), RNG.normal(size=(7, 5))
    found = retrieve(one, two)
    centred = [each - each.mean(0) for each in (one, two)]
    first, ranks, same, other = [], [], [], []
    for a, b in (centred, centred[::-1]):
        for i in range(7):
            cosines = [a[i] @ each / np.linalg.norm(a[i]) / np.linalg.norm(each) for each in b]
            rank = 1 + sum(c > cosines[i] for c in cosines)
            first.append(rank == 1)
            ranks.append(1 / rank)
            same.append(cosines[i])
            other += [c for j, c in enumerate(cosines) if j != i]
    assert found.first == pytest.approx(np.mean(first))
    assert found.reciprocal_rank == pytest.approx(np.mean(ranks))
    assert found.same == pytest.approx(np.mean(same))
    assert found.other == pytest.approx(np.mean(other))
    assert found.margin == pytest.approx(found.same - found.other)


def test_what_all_scans_of_a_contrast_share_does_not_count() -> None:
    people = RNG.normal(size=(6, 8))
    assert retrieve(people + 100, people - 3).first == 1
    assert retrieve(people, people[::-1]).first < 1
    with pytest.raises(ValueError, match="two scans of each of at least two patients"):
        retrieve(people[:1], people[:1])


def test_features_that_are_all_alike_find_nobody() -> None:
    found = retrieve(np.ones((4, 3)), np.ones((4, 3)))
    assert found.first == 0


def test_no_patient_is_on_both_sides() -> None:
    patients = [f"p{k // 3}" for k in range(30)]
    train, test = split_by_patient(patients, test=0.3, seed=2)
    names = np.array(patients)
    assert not set(names[train]) & set(names[test])
    assert len(set(names[test])) == 3
    check_disjoint(list(names[train]), list(names[test]))
    with pytest.raises(ValueError, match="p0 is in both"):
        check_disjoint(["p0", "p1"], ["p0"])
    with pytest.raises(ValueError, match="enough patients"):
        split_by_patient(["p0", "p0"])


def test_a_probe_reads_what_is_there_and_not_what_is_not() -> None:
    patients = [f"p{k}" for k in range(60)]
    labels = ["a" if k % 2 else "b" for k in range(60)]
    features = RNG.normal(size=(60, 4))
    told = features + 5 * np.array([label == "a" for label in labels])[:, None]
    assert linear_probe(told, labels, patients).balanced_accuracy == 1
    assert linear_probe(features, labels, patients).balanced_accuracy < 0.8
    with pytest.raises(ValueError, match="at least two classes"):
        linear_probe(features, ["a"] * 60, patients)


def test_psnr() -> None:
    assert peak_signal_to_noise(0.01) == pytest.approx(20)
    assert peak_signal_to_noise(0.01, peak=10) == pytest.approx(40)
    assert peak_signal_to_noise(0) == np.inf
