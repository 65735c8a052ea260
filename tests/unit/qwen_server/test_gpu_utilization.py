# ruff: noqa: N802 (the names are NVML's)
"""How busy the GPUs are, as the Prometheus page says it."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from qwen_server.observe.gpu import GpuMonitor, GpuReading, NvmlReader
from tests.unit.qwen_server.serving import serve
from tests.unit.qwen_server.test_gpu import FakeNvml, NvmlError


class BusyNvml(FakeNvml):
    """Two GPUs that compute for the given percentages of the time. None: a GPU does not say."""

    def __init__(self, *percentages: int | None) -> None:
        super().__init__()
        self.percentages = percentages

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        percentage = self.percentages[handle]
        if percentage is None:
            raise NvmlError("not supported")
        return SimpleNamespace(gpu=percentage, memory=1)


@pytest.mark.parametrize(
    ("percentages", "share"), [((100, 50), 0.75), ((None, 40), 0.4), ((None, None), None), ((0, 0), 0.0)]
)
def test_the_utilization_is_the_mean_of_the_gpus_that_report_it(
    percentages: tuple[int | None, ...], share: float | None
) -> None:
    assert NvmlReader(BusyNvml(*percentages), 2).read().busy == share


def test_old_bindings_do_not_know_it() -> None:
    assert NvmlReader(FakeNvml(), 2).read().busy is None


@pytest.mark.parametrize(("share", "shown"), [(0.75, "0.75"), (None, "NaN")])
async def test_prometheus_reads_it(share: float | None, shown: str) -> None:
    reading = GpuReading(name="NVIDIA H100", allocated=1, total=2, temperature=50.0)
    monitor = GpuMonitor()
    monitor.latest = dataclasses.replace(reading, busy=share)
    async with serve(gpu=monitor) as served:
        page = (await served.client.get("/metrics/prometheus")).text
        assert f"\nqwen_gpu_utilization_ratio {shown}\n" in page
