"""Signal equations: what each MR sequence makes of quantitative maps.

Pure, differentiable functions of tensors. Maps are tensors of one broadcastable shape: ``proton_density`` in
p.u., ``r1``, ``r2``, ``r2star`` in 1/s (not negative), ``mt_saturation`` in p.u., ``adc`` in mm^2/s and
``b1_plus`` as the ratio of actual to nominal flip angle. Times are seconds, angles degrees. Spin echoes decay
with R2, gradient echoes with R2*. All models are mono-exponential with perfect spoiling; the receive field
and noise belong to ``anystroke.corruption``.

Proton density is a factor that is never divided by, so that the background is 0 and not NaN. Magnetisation is
followed forwards in time only. Equations that were published with other generators, faults included, are in
``anystroke.acquisition.sequences.published``.
"""

from anystroke.acquisition.sequences.echo_trains import equivalent_echo_time
from anystroke.acquisition.sequences.gradient_echoes import (
    balanced_ssfp,
    mp2rage,
    mprage,
    spoiled_gradient_echo,
    uniform_image,
)
from anystroke.acquisition.sequences.spin_echoes import (
    apparent_diffusion_coefficient,
    diffusion_weighted,
    double_inversion_recovery,
    flair,
    incidental_mt_factor,
    inversion_recovery_spin_echo,
    null_inversion_time,
    spin_echo,
    turbo_spin_echo,
)

__all__ = [
    "apparent_diffusion_coefficient",
    "balanced_ssfp",
    "diffusion_weighted",
    "double_inversion_recovery",
    "equivalent_echo_time",
    "flair",
    "incidental_mt_factor",
    "inversion_recovery_spin_echo",
    "mp2rage",
    "mprage",
    "null_inversion_time",
    "spin_echo",
    "spoiled_gradient_echo",
    "turbo_spin_echo",
    "uniform_image",
]
