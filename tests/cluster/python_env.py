"""uv, the environments of Python, and access to the package index from here and from builds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.cluster.console import Problem
from tests.cluster.settings import ROOT, Settings
from tests.cluster.shell import Stamps, digest, logged, output

PYTHON = (3, 11)
UV_PINS = Path(__file__).resolve().parent / "uv.txt"
DEV_PINS = ROOT / "requirements" / "dev.txt"
CLIENT_PINS = ROOT / "requirements" / "clients.txt"
DEFAULT_CA = "/etc/ssl/certs/ca-certificates.crt"
PASSED_ON = (
    *("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_HTTP_TIMEOUT"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
)


def require_python() -> None:
    """Raise Problem unless this is the Python of the pinned requirements."""
    if sys.version_info[:2] != PYTHON:
        raise Problem(
            f"this is Python {sys.version.split()[0]}, the pinned requirements are for {PYTHON[0]}.{PYTHON[1]}",
            f"run make with PYTHON=python{PYTHON[0]}.{PYTHON[1]}",
        )


def uv(settings: Settings) -> Path:
    """The uv program."""
    return settings.cache / "uv" / "bin" / "uv"


def ensure_uv(settings: Settings) -> str:
    """Install uv at its pinned version. Returns a one-line summary."""
    stamps = Stamps(settings.cache / "stamps")
    value = digest([UV_PINS])
    if stamps.fresh("uv", value) and uv(settings).exists():
        return "up to date"
    folder = settings.cache / "uv"
    log = settings.cache / "logs" / "uv.log"
    hint = f"see {log}; is there a network, and a package index that pip reaches?"
    if not (folder / "bin" / "pip").exists():
        logged([sys.executable, "-m", "venv", folder], log, hint="run: apt-get install python3-venv")
    logged([folder / "bin" / "pip", "install", "--require-hashes", "-r", UV_PINS], log, hint=hint)
    stamps.set("uv", value)
    return "installed"


def ensure_venv(settings: Settings) -> str:
    """Sync the development environment with requirements/dev.txt. Returns a one-line summary."""
    return _sync(settings, settings.venv, DEV_PINS)


def ensure_clients(settings: Settings) -> str:
    """Sync the environment of the client programs, whose packages differ from the server's.

    Returns a one-line summary.
    """
    return _sync(settings, settings.clients, CLIENT_PINS)


def _sync(settings: Settings, folder: Path, pins: Path) -> str:
    """Make the environment in `folder` contain exactly the pinned packages."""
    stamps = Stamps(settings.cache / "stamps")
    value = digest([pins], ".".join(map(str, PYTHON)))
    python = folder / "bin" / "python"
    if stamps.fresh(folder.name, value) and python.exists():
        return "up to date"
    require_python()
    log = settings.cache / "logs" / f"{folder.name}.log"
    env = {**os.environ, **index_env(settings)}
    # Without compiled bytecode, every start of vLLM takes half a minute longer.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    hint = f"see {log}; is there a network?"
    if not python.exists():
        logged([uv(settings), "venv", "--no-project", "--python", sys.executable, folder], log, env=env)
    sync = ["pip", "sync", "--python", str(python), "--require-hashes", "--compile-bytecode", str(pins)]
    logged([uv(settings), *sync], log, cwd=ROOT, env=env, hint=hint)
    stamps.set(folder.name, value)
    return f"synced with requirements/{pins.name}"


def index_env(settings: Settings) -> dict[str, str]:
    """Variables that give uv the package index, proxies and CA bundle that pip uses here."""
    env = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    if not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & env.keys():
        configured = pip_config(output([settings.cache / "uv" / "bin" / "pip", "config", "list"]))
        for option, variable in (("index-url", "UV_DEFAULT_INDEX"), ("extra-index-url", "UV_INDEX")):
            if option in configured:
                env[variable] = " ".join(configured[option].split())
    env["SSL_CERT_FILE"] = str(ca_bundle())
    return env


def pip_config(listing: str) -> dict[str, str]:
    """Parse `pip config list` into option -> value; the environment takes precedence."""
    options: dict[str, str] = {}
    for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        options[name.rpartition(".")[2]] = value.strip("'\"").replace("\\n", " ")
    return options


def ca_bundle() -> Path:
    """The CA certificates that this machine trusts."""
    for variable in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"):
        path = os.environ.get(variable)
        if path and Path(path).is_file():
            return Path(path)
    return Path(DEFAULT_CA)
