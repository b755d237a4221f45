"""What can be chosen when scans are segmented: how, what is written, and how a cohort is treated."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from typing_extensions import Doc

from anystroke.core.errors import OptionError

if TYPE_CHECKING:
    from anystroke.anatomy.registration.atlas import Atlas

Fusion = Literal["probability", "logit"]
PresetName = Literal["default", "paper", "paper-one-pass"]


@dataclass(frozen=True)
class SegmentOptions:
    """How one scan is segmented.

    Attributes:
        threshold: Probability from which a voxel is lesion; None for the model's own.
        min_volume: Lesions smaller than this [ml] are left out of the mask.
        flip: Average with what the networks say of the mirrored head; doubles their time.
        preset: ``"default"``, or ``"paper"``: 1 mm, histogram equalisation, windows of 192 voxels that
            overlap by half, and eight flips, as published; or ``"paper-one-pass"``, without the flips.
        adc: The scan is an ADC map, which is then looked at as its exponential too; one whose name says so is
            known to be one.
        second_look: Look at the brain again at a finer grid, if the model can and the scan is fine enough.
        tissues: Classes of the model whose probabilities to return as well.
        spread: Return the spread over views and flips too; where a model has one view, of the mirrored head.
        device: Where to compute, a `torch.device` or its name; None for a GPU if there is one.

    Raises:
        OptionError: A threshold outside (0, 1), a negative volume, or an unknown preset.

    Example:
        >>> SegmentOptions(threshold=1.5)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        anystroke.core.errors.OptionError: the threshold is a probability above 0 and below 1, got 1.5; ...
    """

    threshold: Annotated[
        float | None, Doc("Probability from which a voxel is lesion; by default the model's own.")
    ] = None
    min_volume: Annotated[float, Doc("Leave out lesions smaller than this [ml].")] = 0.0
    flip: Annotated[bool, Doc("Average with the mirrored head; takes twice as long.")] = False
    preset: Annotated[
        PresetName,
        Doc(
            "paper: 1 mm, equalised histogram, windows of 192 voxels, eight flips, as published; slow. "
            "paper-one-pass: the same without flips."
        ),
    ] = "default"
    adc: Annotated[bool, Doc("The scans are ADC maps; needed where their names do not say so.")] = False
    second_look: Annotated[bool, Doc("Do not look again at a finer grid.")] = True
    tissues: tuple[str, ...] = ()
    spread: bool = False
    device: Any = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0.0 < self.threshold < 1.0:
            raise OptionError(
                f"the threshold is a probability above 0 and below 1, got {self.threshold:g}; try 0.5"
            )
        if not self.min_volume >= 0.0:
            raise OptionError(f"the smallest lesion volume is 0 ml or more, got {self.min_volume:g}")
        if self.preset not in get_args(PresetName):
            raise OptionError(f"the preset is one of {', '.join(get_args(PresetName))}, got {self.preset!r}")

    @classmethod
    def of(cls, options: Self | None, changes: dict[str, Any]) -> Self:
        """Return options with some fields changed.

        Args:
            options: None for the defaults.
            changes: Values by the names of fields.

        Raises:
            TypeError: There is no such field.
            OptionError: A value is out of range.

        Example:
            >>> SegmentOptions.of(None, {"flip": True}).flip
            True
        """
        return replace(options or cls(), **changes)

    def settings(self) -> dict[str, Any]:
        """Return what decides the result, as plain values: all but the device."""
        return {name: value for name, value in asdict(self).items() if name != "device"}


@dataclass(frozen=True)
class WriteOptions:
    """What is written of each scan beside mask, probabilities and table.

    Attributes:
        report: A page and pictures of each scan, and places in MNI space.
        uncertainty: The spread of the probability over views and flips.
        tissues: A segmentation of the brain's tissues.
        write_fmriprep_roi: The lesion as fMRIPrep reads it.
        dicom_seg: A DICOM segmentation of scans that came as DICOM.
        atlas: Label map of territories in MNI space, named in the table of lesions.
        atlas_names: Their names; by default the file of the atlas's name that ends in .tsv or .txt.
    """

    report: Annotated[bool, Doc("No page, pictures and places in MNI space of each scan; saves seconds.")] = (
        True
    )
    uncertainty: Annotated[bool, Doc("Write how much the probability varies with how the head is shown.")] = (
        False
    )
    tissues: Annotated[bool, Doc("Write a segmentation of the tissues.")] = False
    write_fmriprep_roi: Annotated[bool, Doc("Write the mask as fMRIPrep reads it (label-lesion_roi).")] = (
        False
    )
    dicom_seg: Annotated[bool, Doc("Write a DICOM segmentation of scans that came as DICOM.")] = False
    atlas: Annotated[
        Path | None, Doc("Label map of territories in MNI space, named in the table of lesions.")
    ] = None
    atlas_names: Annotated[
        Path | None, Doc("Their names; by default the atlas's file with the ending .tsv or .txt.")
    ] = None

    def __post_init__(self) -> None:
        if self.atlas is None and self.atlas_names is not None:
            raise OptionError(
                f"--atlas-names is given ({self.atlas_names}) without --atlas; name the label map too"
            )

    def open_atlas(self) -> "Atlas | None":
        """Read the atlas, if there is one.

        Raises:
            AtlasError: It cannot be used.
        """
        from anystroke.anatomy.registration.atlas import Atlas  # the command's help need not wait for it

        return Atlas.load(self.atlas, self.atlas_names) if self.atlas else None

    def settings(self) -> dict[str, bool]:
        """Return the switches."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, bool)}


@dataclass(frozen=True)
class CohortOptions:
    """How the scans of a run are treated.

    Attributes:
        together: Fuse the scans of each patient and session; scans without a patient are taken to be of one.
        fusion: ``"probability"``: mean of what the networks say. ``"logit"``: mean of its log-odds, as
            the published ensembles do; one contrast that is sure weighs more.
        allow_ct: Take CT too, which the networks never saw.
        overwrite: Whether existing results may be replaced.
    """

    together: Annotated[bool, Doc("Fuse the contrasts of each patient (and session).")] = False
    fusion: Annotated[Fusion, Doc("What --together takes the mean of.")] = "probability"
    allow_ct: Annotated[bool, Doc("Take CT too, which the networks never saw.")] = False
    overwrite: Annotated[bool, Doc("Replace existing results.")] = False
