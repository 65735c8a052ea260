"""The scripted engine in the real program, controlled by text and by signals."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[3]


@dataclass
class Program:
    process: subprocess.Popen[bytes]
    client: httpx.AsyncClient
    termination_log: Path

    async def status(self) -> str:
        """The body of /api/v1/metrics; empty while nothing listens."""
        try:
            return str((await self.client.get("/api/v1/metrics")).json()["status"])
        except httpx.TransportError:
            return ""

    async def until_status(self, status: str) -> None:
        async with asyncio.timeout(30):
            while await self.status() != status:  # noqa: ASYNC110 (another process has no event for us)
                await asyncio.sleep(0.05)


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Program]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    alerts = tmp_path / "alerts.json"
    alerts.write_text(json.dumps({"alerts": [{"name": "EngineUnresponsive", "threshold": 0.3}]}))
    termination_log = tmp_path / "termination-log"
    termination_log.touch()
    process = subprocess.Popen(  # noqa: ASYNC220
        [
            *(sys.executable, "-m", "tests.scripted_engine", "--model", "scripted/model", "--device", "cpu"),
            *("--host", "127.0.0.1", "--port", str(port), "--alerts-file", str(alerts)),
            *("--termination-log", str(termination_log), "--podinfo-dir", str(tmp_path)),
            "--engine-restarts=0",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'server/src'}:{ROOT}", "SCRIPTED_START_SECONDS": "0.3"},
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            yield Program(process, client, termination_log)
    finally:
        process.kill()
        process.wait()


async def test_it_starts_hangs_comes_back_and_dies_on_command(program: Program) -> None:
    await program.until_status("starting")
    await program.until_status("healthy")
    answer = await program.client.post("/v1/completions", json={"prompt": "x"})
    assert answer.json()["choices"][0]["text"] == "科技"
    program.process.send_signal(signal.SIGUSR1)
    await program.until_status("unhealthy")
    program.process.send_signal(signal.SIGUSR1)
    await program.until_status("healthy")
    program.process.send_signal(signal.SIGUSR2)
    assert await asyncio.to_thread(program.process.wait, 10) == 70
    assert "illegal memory access" in program.termination_log.read_text()


async def test_a_request_can_kill_it(program: Program) -> None:
    await program.until_status("healthy")
    prompt = '@{"action": "die", "cause": "CUDA out of memory"}'
    response = await program.client.post("/v1/completions", json={"prompt": prompt})
    assert (response.status_code, response.json()) == (500, {"error": "CUDA out of memory"})
    assert await asyncio.to_thread(program.process.wait, 10) == 70
    assert program.termination_log.read_text() == "CUDA out of memory"
