"""One MR sequence, one file: its timing check, its signal equation and its protocol.

Signal equations are pure, differentiable functions of tensors. Maps are tensors of one broadcastable shape:
``proton_density`` in p.u., ``r1``, ``r2``, ``r2star`` in 1/s (not negative), ``mt_saturation`` in p.u.,
``adc`` in mm^2/s and ``b1_plus`` as the ratio of actual to nominal flip angle. Times are seconds, angles
degrees. Spin echoes decay with R2, gradient echoes with R2*. All models are mono-exponential with perfect
spoiling; the receive field and noise belong to ``anystroke.corruption``.

Proton density is a factor that is never divided by, so that the background is 0 and not NaN. Magnetisation is
followed forwards in time only. Equations that were published with other generators, faults included, are in
``published``.

A protocol is a frozen dataclass that checks its own timing, knows which maps it needs and calls the equation.
Its class says as data which contrasts it gives and how BIDS writes them; ``anystroke.acquisition.base`` tells
what a class must say. Every file of this folder is imported with it, and its protocols are known from then on
to ``anystroke.acquisition.catalogue``, presets, sidecars and the command: adding a sequence is adding a file.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from anystroke.acquisition.base import REGISTERED, Protocol

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

SEQUENCES: Mapping[str, type[Protocol]] = MappingProxyType(REGISTERED)
"""Protocol classes by the name of their sequence."""
