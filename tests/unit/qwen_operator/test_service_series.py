"""The operator's series of services."""

from prometheus_client import CollectorRegistry, generate_latest

from qwen_operator.process.service_series import ServiceSeries

NEWS, DOTTED = ("n", "news", "news"), ("n", "qwen2-5", "qwen2.5")


def test_a_page_has_the_values_of_each_service() -> None:
    registry = CollectorRegistry()
    ready = ServiceSeries("ready", "Whether it is.", "type", registry=registry)
    steps = ServiceSeries("steps", "Its steps.", registry=registry, counter=True)
    ready.set(NEWS, True, "Ready")
    ready.set(DOTTED, 0, "Ready")
    steps.begin(NEWS)
    steps.inc(NEWS)
    steps.inc(NEWS, 2)
    steps.begin(NEWS)
    assert generate_latest(registry).decode().splitlines() == [
        "# HELP ready Whether it is.",
        "# TYPE ready gauge",
        'ready{namespace="n",qwenservice="news",service="news",type="Ready"} 1.0',
        'ready{namespace="n",qwenservice="qwen2.5",service="qwen2-5",type="Ready"} 0.0',
        "# HELP steps_total Its steps.",
        "# TYPE steps_total counter",
        'steps_total{namespace="n",qwenservice="news",service="news"} 3.0',
    ]
    for series in (ready, steps):
        series.forget(NEWS)
        series.forget(NEWS)
    assert "news" not in generate_latest(registry).decode()
    assert "qwen2-5" in generate_latest(registry).decode()
