"""How much energy a workload takes on a device, from counts and the profile.

Knows counts and profiles. Knows no power meter: what it says is modelled, never measured.
"""

from __future__ import annotations

from ondevice.devices.profile import Device
from ondevice.devices.roofline import Work, latency
from ondevice.errors import BadInput


def energy(work: Work, device: Device, threads: int | None = None) -> float:
    """Modelled joules: idle power * time + operations * energy an operation + bytes * energy a byte.

    An operation costs (active power - idle power) / (achieved operations/s of the whole device): what the
    device draws more when it only computes. As published active power includes some memory traffic, the model
    errs on the high side. Raises BadInput where the profile gives no power.
    """
    if not device.power:
        raise BadInput(f"{device.name} gives no power figures, so its energy cannot be modelled")
    fraction = device.achieved.compute.value if device.achieved else 1.0
    above_idle = device.power["active"].value - device.power["idle"].value
    weights = device.tier_for(sum(operation.weight_bytes for operation in work))
    total = device.power["idle"].value * latency(work, device, threads)
    for op in work:
        total += 2 * op.macs * above_idle / (device.peak(op.number_format) * fraction)
        total += op.weight_bytes * weights.energy.value
        total += op.activation_bytes * device.tier_for(op.activation_bytes).energy.value
    return total
