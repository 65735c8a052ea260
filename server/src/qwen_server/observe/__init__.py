"""Observability: what the server measures, and how it shows it.

A module belongs here if it measures or presents: request statistics, GPU readings, the JSON
snapshots, the Prometheus page, traces and logs. The snapshots and the page are pure functions of an
`Observation`.

It decides nothing: alerts and readiness are in `control`, which fills the `Observation`. It imports
no other package of the server, and never vLLM or CUDA.
"""
