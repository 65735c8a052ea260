"""Finds the GPUs of the engine among those of NVML.

The engine uses the first GPUs that CUDA shows. CUDA has another order than NVML, hides what
CUDA_VISIBLE_DEVICES leaves out, and shows one MIG device instead of a GPU in MIG mode.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from qwen_server.observe.cuda_order import cuda_uuids

_MIG_ENABLED = 1  # NVML_DEVICE_MIG_ENABLE


def visible_handles(nvml: ModuleType | Any, count: int) -> list[Any]:
    """Returns NVML's handles of the first `count` GPUs or MIG devices that CUDA shows.

    May block for half a minute. Raises NVMLError if NVML gives no access to any GPU.
    """
    gpus = _all_gpus(nvml)
    chosen = visible_devices(len(gpus), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if _only_cuda_knows(nvml, gpus, chosen, count) and (uuids := cuda_uuids()) is not None:
        found = [_by_bare_uuid(nvml, uuid) for uuid in uuids]
    else:
        found = [_by_entry(nvml, gpus, entry) for entry in chosen]
    # CUDA ignores the first invalid entry and everything after it.
    return list(itertools.takewhile(lambda handle: handle is not None, found))[:count]


def visible_devices(gpus: int, devices: str | None) -> list[int | str]:
    """Returns the devices in CUDA_VISIBLE_DEVICES as indices or UUIDs.

    `devices` is the variable's value. If it is None, these are the indices of all `gpus`.
    """
    if devices is None:
        return list(range(gpus))
    chosen: list[int | str] = []
    for entry in (part.strip() for part in devices.split(",")):
        if entry.isascii() and entry.isdigit() and int(entry) < gpus:
            chosen.append(int(entry))
        elif entry.startswith(("GPU-", "MIG-")):
            chosen.append(entry)
        else:
            break  # CUDA ignores the first invalid entry and everything after it
    return chosen


def board_of(nvml: ModuleType | Any, handle: Any) -> Any:
    """Returns the handle of the GPU that a MIG device is a part of, else `handle`."""
    try:
        if nvml.nvmlDeviceIsMigDeviceHandle(handle).value:
            return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    except nvml.NVMLError:
        pass  # a driver without MIG
    return handle


def _all_gpus(nvml: ModuleType | Any) -> list[Any]:
    """The handles of all GPUs by PCI address.

    NVML also counts GPUs that this container may not use, and those that are lost.
    """
    gpus: list[Any] = []
    refusal: BaseException | None = None
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpus.append(nvml.nvmlDeviceGetHandleByIndex(index))
        except nvml.NVMLError as error:
            refusal = error
    if refusal is not None and not gpus:
        raise refusal
    try:
        places = [nvml.nvmlDeviceGetPciInfo(gpu) for gpu in gpus]
    except nvml.NVMLError:
        return gpus  # NVML's own order is nearly always this one
    addresses = [(place.domain, place.bus, place.device) for place in places]
    return [gpus[number] for number in sorted(range(len(gpus)), key=addresses.__getitem__)]


def _only_cuda_knows(nvml: ModuleType | Any, gpus: Sequence[Any], chosen: Sequence[int | str], count: int) -> bool:
    """Whether only CUDA can say which GPUs the entries mean.

    All GPUs together are the same in any order. A UUID is clear, unless that GPU is in MIG mode.
    """
    if any(_mig_devices(nvml, gpu) for gpu in gpus):
        return any(not str(entry).startswith("MIG-") for entry in chosen)
    indices = {entry for entry in chosen if isinstance(entry, int)}
    if not indices or len(indices) == len(gpus) <= count:
        return False
    return os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"


def _mig_devices(nvml: ModuleType | Any, gpu: Any) -> list[Any]:
    """The MIG devices of a GPU; empty unless it is in MIG mode."""
    try:
        if nvml.nvmlDeviceGetMigMode(gpu)[0] != _MIG_ENABLED:
            return []
        slots = range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu))
    except nvml.NVMLError:
        return []  # a GPU or a driver without MIG
    devices = []
    for slot in slots:
        try:
            devices.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, slot))
        except nvml.NVMLError:
            continue  # an empty slot, or a device of another container
    return devices


def _by_entry(nvml: ModuleType | Any, gpus: Sequence[Any], entry: int | str) -> Any | None:
    """The device that an entry of CUDA_VISIBLE_DEVICES means; None if there is no such device."""
    if isinstance(entry, int):
        found = gpus[entry]
    else:
        found = _by_uuid(nvml, entry) or _by_beginning(nvml, gpus, entry)
        if found is None or entry.startswith("MIG-"):
            return found
    return next(iter(_mig_devices(nvml, found)), found)


def _by_uuid(nvml: ModuleType | Any, uuid: str) -> Any | None:
    try:
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    except nvml.NVMLError:
        return None


def _by_bare_uuid(nvml: ModuleType | Any, uuid: str) -> Any | None:
    """The device with a UUID from CUDA, which does not say whether it is a MIG device."""
    return _by_uuid(nvml, f"GPU-{uuid}") or _by_uuid(nvml, f"MIG-{uuid}")


def _by_beginning(nvml: ModuleType | Any, gpus: Sequence[Any], beginning: str) -> Any | None:
    """The only device whose UUID begins like this: CUDA accepts short UUIDs, and NVML does not."""
    found = []
    for gpu in gpus:
        for device in (gpu, *_mig_devices(nvml, gpu)):
            try:
                uuid = nvml.nvmlDeviceGetUUID(device)
            except nvml.NVMLError:
                continue
            if uuid.startswith(beginning):
                found.append(device)
    return found[0] if len(found) == 1 else None
