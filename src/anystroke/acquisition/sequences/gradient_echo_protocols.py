"""Protocols of gradient echoes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from anystroke.acquisition import timing
from anystroke.acquisition.base import Protocol
from anystroke.acquisition.fast.blocks import in_blocks
from anystroke.acquisition.fast.tabulated import can_tabulate
from anystroke.acquisition.sequences import equations

MP2RAGE_IMAGES = ("uni", "inv1", "inv2")
"""The images of an MP2RAGE that a protocol can give."""


@dataclass(frozen=True, kw_only=True)
class SpoiledGradientEcho(Protocol):
    """Spoiled gradient echo: T1w SPGR and FLASH, PDw, T2*w.

    Attributes:
        repetition_time: Excitation to excitation, s.
        echo_time: Excitation to echo, s.
        flip_angle: Nominal flip angle, degrees.
        mt_scale: Saturation of the MT pulse that is played, relative to the map's own; 0 if none is played.
    """

    sequence: ClassVar[str] = "spgr"

    weighting: str = "T1w"
    repetition_time: float
    echo_time: float
    flip_angle: float
    mt_scale: float = 0.0

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2star", *(("mt_saturation",) if self.mt_scale else ()))

    @property
    def decay_times(self) -> Mapping[str, float]:
        """For each map ``R`` in which the signal decays as ``exp(-t R)``, the ``t``."""
        return {} if self.mt_scale else {"r2star": self.echo_time}

    def _check(self) -> None:
        timing.check_gradient_echo(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        if self.mt_scale:
            arguments["mt_saturation"] = arguments["mt_saturation"] * self.mt_scale
        return equations.spoiled_gradient_echo(**arguments)


@dataclass(frozen=True, kw_only=True)
class Mprage(Protocol):
    """MPRAGE (IR-SPGR, TFE): inversion-prepared gradient-echo train.

    Attributes:
        repetition_time: Inversion to inversion, s.
        inversion_time: Inversion to the excitation at the centre of k-space, s.
        excitation_spacing: Time between excitations, s.
        n_excitations: Number of excitations per inversion.
        flip_angle: Nominal flip angle, degrees.
        echo_time: Excitation to echo, s.
        inversion_efficiency: -Mz after / Mz before the inversion, 0..1.
        centre_index: Which excitation fills the centre of k-space; half of them come before it if None.
    """

    sequence: ClassVar[str] = "mprage"

    weighting: str = "T1w"
    repetition_time: float
    inversion_time: float
    excitation_spacing: float
    n_excitations: int
    flip_angle: float
    echo_time: float
    inversion_efficiency: float = 0.95
    centre_index: int | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2star")

    @property
    def decay_times(self) -> Mapping[str, float]:
        """For each map ``R`` in which the signal decays as ``exp(-t R)``, the ``t``."""
        return {"r2star": self.echo_time}

    def _check(self) -> None:
        timing.check_mprage(**self._parameters())

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return equations.mprage(**arguments)


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
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2star")

    @property
    def additive(self) -> bool:
        """Whether the signed signals of the parts of a voxel add up to that of the voxel."""
        return self.image != "uni"

    @property
    def decay_times(self) -> Mapping[str, float]:
        """For each map ``R`` in which the signal decays as ``exp(-t R)``, the ``t``."""
        return {} if self.image == "uni" else {"r2star": self.echo_time}

    def _check(self) -> None:
        if self.image not in MP2RAGE_IMAGES:
            raise ValueError(f"image must be one of {', '.join(MP2RAGE_IMAGES)}, got {self.image!r}")
        parameters = self._parameters()
        del parameters["robust_beta"]
        timing.check_mp2rage(**parameters)

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
            lambda images: equations.uniform_image(**images, robust_beta=self.robust_beta),
            {"inv1": inv1, "inv2": inv2},
        )
        return uni if signed else uni.add_(0.5)

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        inv1, inv2, uni = equations.mp2rage(**arguments)
        if self.image != "uni":
            return inv1 if self.image == "inv1" else inv2
        return uni if arguments["signed"] else uni + 0.5


@dataclass(frozen=True, kw_only=True)
class BalancedSsfp(Protocol):
    """Balanced steady-state free precession, on resonance (or phase-cycled); the echo is at half of TR.

    Attributes:
        repetition_time: Excitation to excitation, s.
        flip_angle: Nominal flip angle, degrees.
    """

    sequence: ClassVar[str] = "bssfp"

    weighting: str = "bSSFP"
    repetition_time: float
    flip_angle: float

    @property
    def needs(self) -> tuple[str, ...]:
        """The maps that ``signal`` takes."""
        return ("proton_density", "r1", "r2")

    @property
    def echo_time(self) -> float:
        """Excitation to echo, s."""
        return self.repetition_time / 2.0

    def _check(self) -> None:
        timing.check_gradient_echo(**self._parameters(), echo_time=self.echo_time)

    def _play(self, arguments: dict[str, Any]) -> Tensor:
        return equations.balanced_ssfp(**arguments)
