"""Draws the dashboards from what a Prometheus answers, one PNG for each.

    python -m charts.pictures --prometheus URL --start TIME --end TIME --service NAME

Times are in ISO 8601, such as 2026-11-26T17:00:00Z. Grafana is not needed. If Prometheus asks for a
token, set PROMETHEUS_TOKEN. Exit codes: 0 if all pictures are written, 1 if Prometheus refuses a
query or does not answer.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
from charts.dashboards import documents, variables
from charts.pictures.answers import Prometheus, PrometheusError, Span, page
from charts.pictures.drawing import picture, save

POINTS = 240
"""About how many moments a picture has; Grafana asks for as many as a panel has pixels."""


def moment(text: str) -> float:
    """Seconds since the epoch of a time in ISO 8601, which is UTC if it names no zone."""
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m charts.pictures", description="Draw the dashboards from what a Prometheus answers."
    )
    parser.add_argument("--prometheus", required=True, help="address, such as http://localhost:9090")
    parser.add_argument("--start", required=True, type=moment, help="begin of the time range")
    parser.add_argument("--end", required=True, type=moment, help="end of the time range")
    parser.add_argument("--namespace", default="default", help="namespace of the QwenService (default)")
    parser.add_argument("--service", required=True, help="name of the QwenService")
    parser.add_argument("--operator-namespace", default="qwen-system", help="namespace of the operator (qwen-system)")
    parser.add_argument("--job", default="qwen-operator-metrics", help="job of the operator (qwen-operator-metrics)")
    parser.add_argument("--rate-interval", default="1m", help="at least four times the scrape interval (1m)")
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"), help="folder (docs/pictures)")
    return parser


def main(arguments: list[str] | None = None, transport: httpx.BaseTransport | None = None) -> int:
    """Runs the command line. `transport` replaces the network."""
    chosen = options().parse_args(arguments)
    span = Span(chosen.start, chosen.end, max(1.0, (chosen.end - chosen.start) // POINTS))
    values = variables(chosen.namespace, chosen.service, chosen.operator_namespace, chosen.job, chosen.rate_interval)
    token = os.environ.get("PROMETHEUS_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    chosen.output.mkdir(parents=True, exist_ok=True)
    try:
        with httpx.Client(headers=headers, timeout=60, transport=transport) as client:
            prometheus = Prometheus(chosen.prometheus, client)
            for uid, document in documents().items():
                path = chosen.output / f"{uid}.png"
                save(picture(page(prometheus, document, values, span)), path)
                print(path)
    except PrometheusError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
