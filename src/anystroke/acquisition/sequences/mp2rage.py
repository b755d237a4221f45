"""MP2RAGE: two gradient-echo trains per inversion."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.fast.blocks import in_blocks
from anystroke.acquisition.fast.tabulated import can_tabulate
from anystroke.acquisition.relaxation import TINY, decay, finish, sin_and_versine
from anystroke.acquisition.sequences.gradient_train import excitation_train, read_gradient_train
from anystroke.acquisition.sequences.mprage import check_mprage
from anystroke.acquisition.sidecars.sidecar import Evidence, Family, Sidecar

MP2RAGE_IMAGES = ("uni", "inv1", "inv2")
"""The images of an MP2RAGE that a protocol can give."""


def check_mp2rage(
    *,
    repetition_time: float,
    inversion_times: tuple[float, float],
    excitation_spacing: float,
    n_excitations: int,
    flip_angles: tuple[float, float],
    echo_time: float,
    inversion_efficiency: float,
    centre_index: int | None = None,
) -> tuple[float, float, float, int]:
    """Refuse two inversion-prepared gradient-echo trains that do not fit around their inversion times.

    Args:
        repetition_time: Inversion to inversion, s.
        inversion_times: Inversion to the excitation that fills the centre of k-space of each train, s.
        excitation_spacing: Time between excitations of a train, s.
        n_excitations: Number of excitations in a train.
        flip_angles: Nominal flip angles, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: Fraction of the magnetisation that is inverted, 0..1.
        centre_index: Which excitation (from 0) fills the centre; ``n_excitations // 2`` if None.

    Returns:
        Delays from the inversion to the first train, from its end to the second, and from that one's end to
        the next inversion, s; and the centre's index.

    Raises:
        TimingError: With the values that do not fit.

    Example:
        >>> before, between, after, centre = check_mp2rage(
        ...     repetition_time=5.0, inversion_times=(0.8, 2.2), excitation_spacing=0.006, n_excitations=160,
        ...     flip_angles=(4.0, 5.0), echo_time=0.003, inversion_efficiency=0.96)
        >>> round(before, 6), round(between, 6), round(after, 6), centre
        (0.32, 0.44, 2.32, 80)
    """
    first, second = inversion_times
    timing.check_times(echo_time=echo_time, second_inversion_time=second)
    timing.check_range("flip_angles", flip_angles[1], 0.0, 180.0, "degrees")
    before, _, centre = check_mprage(
        repetition_time=repetition_time,
        inversion_time=first,
        excitation_spacing=excitation_spacing,
        n_excitations=n_excitations,
        flip_angle=flip_angles[0],
        echo_time=echo_time,
        inversion_efficiency=inversion_efficiency,
        centre_index=centre_index,
    )
    train = n_excitations * excitation_spacing
    between = second - first - train
    if between < -timing.ROUNDING:
        raise timing.TimingError(
            f"the trains overlap by {-between:g} s: inversion_times {first:g} and {second:g} s, "
            f"{n_excitations} excitations of {excitation_spacing:g} s"
        )
    after = repetition_time - before - 2.0 * train - between
    if after < -timing.ROUNDING:
        raise timing.TimingError(
            f"the second train ends {-after:g} s after the next inversion: repetition_time "
            f"{repetition_time:g} s, second of inversion_times {second:g} s, {n_excitations} excitations of "
            f"{excitation_spacing:g} s"
        )
    return before, max(between, 0.0), max(after, 0.0), centre


def mp2rage(
    *,
    proton_density: Tensor,
    r1: Tensor,
    r2star: Tensor,
    repetition_time: float,
    inversion_times: tuple[float, float],
    excitation_spacing: float,
    n_excitations: int,
    flip_angles: tuple[float, float],
    echo_time: float,
    inversion_efficiency: float = 1.0,
    centre_index: int | None = None,
    robust_beta: float = 0.0,
    b1_plus: Tensor | None = None,
    signed: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Signals of an MP2RAGE (two gradient-echo trains per inversion) in the steady state.

    The magnetisation is followed forwards from the inversion through both trains, each as in ``mprage``.
    Following it backwards from the second, as is often printed, loses all digits in float32 for short T1.

    Args:
        proton_density: Proton density, p.u.
        r1: Longitudinal relaxation rate, 1/s.
        r2star: Effective transverse relaxation rate, 1/s.
        repetition_time: Inversion to inversion, s.
        inversion_times: Inversion to the excitation at the centre of k-space of each train, s.
        excitation_spacing: Time between excitations (TX), s.
        n_excitations: Number of excitations per train.
        flip_angles: Nominal flip angle of each train, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion, 0..1.
        centre_index: Which excitation (from 0) fills the centre of k-space; ``n_excitations // 2`` if None.
        robust_beta: Regularises the uniform image, see ``uniform_image``; in squared units of the signals.
        b1_plus: Actual over nominal flip angle; 1 if None.
        signed: Keep the sign of the two images instead of returning their magnitude.

    Returns:
        The two images in the units of ``proton_density``, and the uniform image (UNI), which is always
        signed and lies in -0.5..0.5.

    Raises:
        TimingError: If the trains do not fit around their inversion times or into the repetition.

    Source:
        Marques et al., NeuroImage 49:1271 (2010).

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> inv1, inv2, uni = mp2rage(
        ...     proton_density=100 * one, r1=one, r2star=20 * one, repetition_time=6.25,
        ...     inversion_times=(0.8, 2.2), excitation_spacing=0.0058, n_excitations=160,
        ...     flip_angles=(4.0, 5.0), echo_time=0.0029, inversion_efficiency=0.96)
        >>> round(uni.item(), 4)
        0.1719
    """
    before, between, after, centre = check_mp2rage(
        repetition_time=repetition_time,
        inversion_times=inversion_times,
        excitation_spacing=excitation_spacing,
        n_excitations=n_excitations,
        flip_angles=flip_angles,
        echo_time=echo_time,
        inversion_efficiency=inversion_efficiency,
        centre_index=centre_index,
    )
    rotations = [sin_and_versine(angle, b1_plus) for angle in flip_angles]
    one, two = (excitation_train(r1, excitation_spacing, n_excitations, centre, turn) for turn in rotations)
    to_first, to_second, rest = decay(r1, before), decay(r1, between), decay(r1, after)
    second = 1.0 - (1.0 - one.through(1.0 - to_first)) * to_second
    end = 1.0 - (1.0 - two.through(second)) * rest
    kept = one.to_end * two.to_end * (to_first * to_second * rest)
    steady = end / (1.0 + inversion_efficiency * kept + TINY)
    start = 1.0 - (1.0 + inversion_efficiency * steady) * to_first
    second = 1.0 - (1.0 - one.through(start)) * to_second
    received = proton_density * decay(r2star, echo_time)
    inv1 = received * one.sine * one.at_centre(start)
    inv2 = received * two.sine * two.at_centre(second)
    uni = uniform_image(inv1=inv1, inv2=inv2, robust_beta=robust_beta)
    return finish(inv1, signed), finish(inv2, signed), uni


def uniform_image(*, inv1: Tensor, inv2: Tensor, robust_beta: float = 0.0) -> Tensor:
    """Combine the two signed images of an MP2RAGE so that PD, R2* and the receive field cancel.

    ``(inv1 inv2 - beta) / (inv1^2 + inv2^2 + 2 beta)``. Without ``beta`` the background is noise of full
    range; with it, of the size of a few noise variances, it goes to -0.5, the dark end.

    Args:
        inv1: First image, signed.
        inv2: Second image, signed.
        robust_beta: Regularisation in squared units of the images; 0 gives the plain uniform image.

    Returns:
        UNI in -0.5..0.5; 0 where both images and ``robust_beta`` are 0. Scanners store (UNI + 0.5) 4095.

    Raises:
        ValueError: If ``robust_beta`` is negative or not finite.

    Source:
        Marques et al., NeuroImage 49:1271 (2010); O'Brien et al., PLoS One 9:e99676 (2014) for beta.

    Example:
        >>> import torch
        >>> uniform_image(inv1=torch.tensor([-1.0, 0.0]), inv2=torch.tensor([2.0, 0.0]), robust_beta=0.5)
        tensor([-0.4167, -0.5000])
    """
    if not 0.0 <= robust_beta < float("inf"):
        raise ValueError(f"robust_beta must be finite and not negative, got {robust_beta!r}")
    product, power_ = inv1 * inv2, inv1 * inv1 + inv2 * inv2
    return (product - robust_beta) / (power_ + (2.0 * robust_beta + TINY))


@dataclass(frozen=True, kw_only=True)
class Mp2rage(Protocol):
    """MP2RAGE: two gradient-echo trains per inversion.

    Attributes:
        repetition_time: Inversion to inversion, s.
        inversion_times: Inversion to the excitation at the centre of k-space of each train, s.
        excitation_spacing: Time between excitations, s.
        n_excitations: Number of excitations per train.
        flip_angles: Nominal flip angle of each train, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion, 0..1.
        centre_index: Which excitation fills the centre of k-space; half of them come before it if None.
        robust_beta: Regularises the uniform image, in squared units of the signal: the default is a few noise
            variances of a good scan whose proton density is in p.u., and makes the background dark.
        image: What ``signal`` gives: ``"uni"``, the uniform image plus 0.5, in 0..1 (``signed`` without the
            0.5); or the magnitude image ``"inv1"`` or ``"inv2"``.
    """

    sequence: ClassVar[str] = "mp2rage"
    contrasts: ClassVar[Mapping[str, str]] = {"UNIT1": "UNIT1"}
    scanning_sequence: ClassVar[tuple[str, ...]] = ("GR", "IR")
    takes: ClassVar[tuple[str, ...]] = ("proton_density", "r1", "r2star")
    choices: ClassVar[tuple[str, ...]] = ("image",)
    not_negative: ClassVar[tuple[str, ...]] = ("robust_beta",)
    words: ClassVar[Mapping[str, str]] = {"robust_beta": "beta {:.3g}"}

    weighting: str = "UNIT1"
    repetition_time: float
    inversion_times: tuple[float, float]
    excitation_spacing: float
    n_excitations: int
    flip_angles: tuple[float, float]
    echo_time: float
    inversion_efficiency: float = 0.95
    centre_index: int | None = None
    robust_beta: float = 0.1
    image: str = "uni"

    @property
    def additive(self) -> bool:
        """Whether the signed signals of the parts of a voxel add up to that of the voxel."""
        return self.image != "uni"

    @property
    def decay_times(self) -> Mapping[str, float]:
        """For each map ``R`` in which the signal decays as ``exp(-t R)``, the ``t``."""
        return {} if self.image == "uni" else {"r2star": self.echo_time}

    @classmethod
    def claims(cls, sidecar: Sidecar) -> Evidence | None:
        """Say by what a sidecar tells of this sequence; None if it does not."""
        if sidecar.suffix == "UNIT1":
            return Evidence.SUFFIX
        twice = sidecar.family is Family.GRADIENT_ECHO and sidecar.inversions > 1
        return Evidence.FAMILY if twice else None

    @classmethod
    def read(cls, sidecar: Sidecar) -> dict[str, Any]:
        """Read the fields of this sequence from a sidecar, see ``Protocol.read``."""
        return read_gradient_train(sidecar, pair=True)

    def _check(self) -> None:
        if self.image not in MP2RAGE_IMAGES:
            raise ValueError(f"image must be one of {', '.join(MP2RAGE_IMAGES)}, got {self.image!r}")
        parameters = self._parameters()
        del parameters["robust_beta"]
        check_mp2rage(**parameters)

    def signal(
        self, maps: Mapping[str, Tensor], *, b1_plus: Tensor | None = None, signed: bool = False
    ) -> Tensor:
        """Make the image that this protocol gives of quantitative maps, see ``Protocol.signal``."""
        names = set(maps)
        if self.image != "uni" or not names.issuperset(self.needs):
            return super().signal(maps, b1_plus=b1_plus, signed=signed)
        present = {name: maps[name] for name in self.needs}
        if not can_tabulate(present):
            return super().signal(present, b1_plus=b1_plus, signed=signed)
        inv1, inv2 = (
            replace(self, image=image).signal(present, b1_plus=b1_plus, signed=True)
            for image in ("inv1", "inv2")
        )
        uni = in_blocks(
            lambda images: uniform_image(**images, robust_beta=self.robust_beta),
            {"inv1": inv1, "inv2": inv2},
        )
        return uni if signed else uni.add_(0.5)

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        inv1, inv2, uni = mp2rage(**arguments)
        if self.image != "uni":
            return inv1 if self.image == "inv1" else inv2
        return uni if arguments["signed"] else uni + 0.5
