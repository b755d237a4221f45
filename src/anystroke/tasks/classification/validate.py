"""What a classifier is judged on: participants that training has not seen."""

from collections.abc import Sequence

import torch

from anystroke.io.participants import Participant
from anystroke.learning.task import Verdict
from anystroke.tasks.classification.predict import ClassModel
from anystroke.tasks.classification.sources import read_head

CRITERION = "balanced_accuracy"
"""What the best model has most of."""


def judge_classes(model: ClassModel, people: Sequence[Participant]) -> Verdict:
    """Return one row: how many participants' class is found, by the mean probability over their scans.

    Args:
        model: The classifier.
        people: To judge it on.
    """
    config = model.config
    right: dict[str, list[bool]] = {}
    for person in people:
        heads = [read_head(path, config.spacing, config.divisor) for path in person.scans]
        probability = torch.stack([model.of_image(head) for head in heads]).mean(0)
        found = config.classes[int(probability.argmax())]
        right.setdefault(person.label, []).append(found == person.label)
    shares = [sum(each) / len(each) for each in right.values()]
    everyone = [each for answers in right.values() for each in answers]
    return [
        {
            "set": "simulated",
            "group": "all",
            "scans": len(people),
            CRITERION: sum(shares) / len(shares),
            "accuracy": sum(everyone) / len(everyone),
            "chance": 1 / len(config.classes),
        }
    ]
