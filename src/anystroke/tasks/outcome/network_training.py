"""Train networks on pictures of a cohort, and say where they look."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from anystroke.core.arrays import Array
from anystroke.core.rng import stream
from anystroke.tasks.outcome.cohort import OutcomeCohort
from anystroke.tasks.outcome.config import PictureNetworkConfig
from anystroke.tasks.outcome.estimators import ESTIMATORS, FittedPart
from anystroke.tasks.outcome.folds import stratified_folds
from anystroke.tasks.outcome.models import ModelSpec, Transform, head_targets
from anystroke.tasks.outcome.networks import build_outcome_network
from anystroke.tasks.outcome.pictures import pictures_of, to_grid
from anystroke.tasks.outcome.table import TargetKind

_EPOCHS = 30
_BATCH = 16
_RATE = 5e-4
_COMBINED_STRENGTH = {"alpha": 300.0}
_TRANSFORM = ("median", "mean", "scale", "components", "centre")


@dataclass(frozen=True, eq=False)
class FittedNetwork:
    """A network after training, with how tables are read and numbers scaled.

    Attributes:
        spec: What it is.
        network: In evaluation mode.
        transform: Of the table, and of lesion features for ``combined``.
        centre: Mean of the training target, for numbers; 0 otherwise.
        scale: Its SD; 1 otherwise.
        scans: Whether it sees scans.
        heads: Outputs.
        parts: Of ``combined``: one linear model a head, on the network's features and the transform's.
    """

    spec: ModelSpec
    network: nn.Module
    transform: Transform
    centre: float
    scale: float
    scans: bool
    heads: int
    parts: tuple[FittedPart, ...] = ()

    def raw(self, cohort: OutcomeCohort) -> Array:
        """Predict, as `FittedModel.raw`."""
        table = self.transform.apply(cohort)
        pictures = self._pictures(cohort)
        if self.parts:
            x = np.concatenate([_features(self.network, pictures), table], axis=1)
            return np.stack([part.apply(x) for part in self.parts], axis=1)
        found = _outputs(self.network, pictures, _table_tensor(table))
        return found * self.scale + self.centre

    def saliency(self, cohort: OutcomeCohort, *, seed: int = 1, draws: int = 8, noise: float = 0.1) -> Array:
        """Find where small changes of pictures change predictions, averaged over patients.

        SmoothGrad: absolute gradients, averaged over pictures with noise (Smilkov et al., 2017), mapped
        back to
        MNI space.

        Args:
            cohort: Patients.
            seed: Of the noise.
            draws: Noisy copies; 1 with ``noise`` 0 gives the plain gradient.
            noise: SD, in units of the range of pictures.

        Returns:
            float32 (91, 109, 91), at most 1.
        """
        pictures = self._pictures(cohort)
        table = _table_tensor(self.transform.apply(cohort))
        rng = stream(seed, "outcome", "saliency")
        total = torch.zeros(pictures.shape[2:])
        for k in range(len(pictures)):
            for _ in range(draws):
                noisy = pictures[k : k + 1] + noise * torch.randn(pictures[k : k + 1].shape, generator=rng)
                noisy.requires_grad_(True)
                output = self._score(noisy, table[k : k + 1])
                (gradient,) = torch.autograd.grad(output, noisy)
                total += gradient[0, 0].abs()
        values = to_grid(total.numpy(), self.spec.picture, shrink=self.spec.shrink)
        most = float(values.max())
        return values / most if most > 0 else values

    def _pictures(self, cohort: OutcomeCohort) -> Tensor:
        return torch.from_numpy(
            pictures_of(cohort, self.spec.picture, scans=self.scans, shrink=self.spec.shrink)
        )

    def _score(self, picture: Tensor, table: Tensor) -> Tensor:
        """Sum the outputs of one patient, in a way that gradients pass through."""
        if not self.parts:
            out: Tensor = self.network(picture, table).sum()
            return out
        features = self.network.encoder(picture)  # type: ignore[operator]
        weights = [
            torch.from_numpy(part.arrays["weights"][: features.shape[1]]).float() for part in self.parts
        ]
        total: Tensor = sum((features * each).sum() for each in weights)
        return total

    def config(self) -> PictureNetworkConfig:
        """Describe it, without its weights."""
        return PictureNetworkConfig(
            network=self.spec.network,
            picture=self.spec.picture,
            shrink=self.spec.shrink,
            heads=self.heads,
            table=len(self.transform.names),
            groups=self.transform.groups,
            features=self.transform.names,
            sees_scans=self.scans,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that is to be stored."""
        stored = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        stored["scaling"] = torch.tensor([self.centre, self.scale], dtype=torch.float64)
        for name in _TRANSFORM:
            stored[f"transform.{name}"] = torch.from_numpy(np.array(getattr(self.transform, name), order="C"))
        for k, part in enumerate(self.parts):
            stored |= {
                f"part{k}.{n}": torch.from_numpy(np.array(a, order="C")) for n, a in part.arrays.items()
            }
        return stored


def restore_network(config: PictureNetworkConfig, tensors: Mapping[str, Tensor], name: str) -> FittedNetwork:
    """Make a stored network again.

    Args:
        config: Of the network.
        tensors: As `FittedNetwork.tensors` returns them.
        name: Of the model.

    Raises:
        KeyError: A tensor is missing.
    """
    network = build_outcome_network(config.network, table=config.table, heads=config.heads)
    network.load_state_dict(
        {key.removeprefix("network."): value for key, value in tensors.items() if key.startswith("network.")}
    )
    arrays = [tensors[f"transform.{each}"].numpy() for each in _TRANSFORM]
    transform = Transform(config.groups, config.features, *arrays)
    parts = tuple(
        FittedPart("linear", {each: tensors[f"part{k}.{each}"].numpy() for each in ("weights", "constant")})
        for k in range(config.heads if config.network == "combined" else 0)
    )
    centre, scale = tensors["scaling"].tolist()
    spec = ModelSpec(name, network=config.network, picture=config.picture, shrink=config.shrink)
    return FittedNetwork(
        spec, network.eval(), transform, centre, scale, config.sees_scans, config.heads, parts
    )


def fit_network(
    spec: ModelSpec, cohort: OutcomeCohort, kind: TargetKind, *, seed: int, epochs: int | None
) -> FittedNetwork:
    """Train a network; a fifth of the patients says after which epoch it is best.

    Args:
        spec: What to train.
        cohort: Patients with targets, and with lesions or scans.
        kind: Of the target.
        seed: Of weights, order and the fifth.
        epochs: At most; 30 if None.
    """
    scans = bool(cohort.images)
    groups = ["columns"] if cohort.columns.shape[1] else []
    if spec.network == "combined" and cohort.measured is not None:
        groups += ["size", "side", "shape", "territories", "tract"]
    transform = Transform.fit(groups, cohort) if groups else _no_table()
    table = transform.apply(cohort) if groups else np.empty((len(cohort.ids), 0))
    targets = np.stack(head_targets(kind, cohort.target), axis=1)
    centre, scale = 0.0, 1.0
    if kind == "number":
        centre, scale = float(targets.mean()), float(targets.std()) or 1.0
    goal = torch.from_numpy((targets - centre) / scale).float()
    pictures = torch.from_numpy(pictures_of(cohort, spec.picture, scans=scans, shrink=spec.shrink))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=stream(seed, "outcome", "network")).item()))
        network = build_outcome_network(spec.network, table=table.shape[1], heads=goal.shape[1])
    folds = stratified_folds(cohort.target, 5, seed=seed, classes=kind != "number")
    _learn(network, pictures, _table_tensor(table), goal, folds == 0, kind, epochs or _EPOCHS, seed)
    parts: tuple[FittedPart, ...] = ()
    if spec.network == "combined":
        x = np.concatenate([_features(network, pictures), table], axis=1)
        ridge = ESTIMATORS["ridge"].fit
        parts = tuple(ridge(x, y, kind != "number", _COMBINED_STRENGTH) for y in targets.T)
    return FittedNetwork(spec, network.eval(), transform, centre, scale, scans, goal.shape[1], parts)


def _learn(
    network: nn.Module,
    pictures: Tensor,
    table: Tensor,
    goal: Tensor,
    held: Array,
    kind: TargetKind,
    epochs: int,
    seed: int,
) -> None:
    """Train, and leave the network as it was after its best epoch."""
    rng = stream(seed, "outcome", "order")
    trained, judged = torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))
    share = goal[trained].mean(dim=0).clamp(0.02, 0.98)
    weight = (1 - share) / share

    def loss_of(output: Tensor, wanted: Tensor) -> Tensor:
        if kind == "number":
            return mse_loss(output, wanted)
        return binary_cross_entropy_with_logits(output, wanted, pos_weight=weight.sqrt())

    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-2)
    best, kept = float("inf"), {name: value.clone() for name, value in network.state_dict().items()}
    for _ in range(epochs):
        network.train()
        order = trained[torch.randperm(len(trained), generator=rng)]
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            shown = pictures[rows] * (
                1 + 0.1 * torch.randn(len(rows), *([1] * (pictures.ndim - 1)), generator=rng)
            )
            optimiser.zero_grad()
            loss_of(network(shown, table[rows]), goal[rows]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        outputs = torch.from_numpy(_outputs(network, pictures[judged], table[judged])).float()
        found = float(loss_of(outputs, goal[judged]))
        if found < best:
            best, kept = found, {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(kept)


@torch.no_grad()
def _outputs(network: nn.Module, pictures: Tensor, table: Tensor) -> Array:
    network.eval()
    starts = range(0, len(pictures), _BATCH)
    parts = [network(pictures[s : s + _BATCH], table[s : s + _BATCH]) for s in starts]
    return torch.cat(parts).double().numpy()


@torch.no_grad()
def _features(network: nn.Module, pictures: Tensor) -> Array:
    network.eval()
    encoder = network.encoder
    parts = [encoder(pictures[s : s + _BATCH]) for s in range(0, len(pictures), _BATCH)]  # type: ignore[operator]
    return torch.cat(parts).double().numpy()


def _table_tensor(table: Array) -> Tensor:
    """Return a table for networks, which see a column of zeros where there is none."""
    return torch.from_numpy(table if table.shape[1] else np.zeros((len(table), 1))).float()


def _no_table() -> Transform:
    empty = np.empty(0)
    return Transform((), (), empty, empty, empty, np.empty((0, 0)), np.empty((0, 0)))
