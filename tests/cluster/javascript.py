"""The npm packages of the JavaScript clients, pinned by a lock file without addresses."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.cluster import packages
from tests.cluster.settings import ROOT, Settings
from tests.cluster.shell import Stamps, digest, logged

PINS = ROOT / "tests" / "integration" / "js"
_PINNED = ("package.json", "package-lock.json", ".npmrc")


def installed(settings: Settings) -> Path:
    """The folder whose node_modules contains the packages of PINS."""
    return settings.cache / "npm-clients"


def ensure(settings: Settings) -> str:
    """Install the pinned packages. Returns a one-line summary. Raises Problem."""
    stamps = Stamps(settings.cache / "stamps")
    value = digest([PINS / name for name in _PINNED])
    folder = installed(settings)
    if stamps.fresh(folder.name, value) and (folder / "node_modules" / "openai").is_dir():
        return "up to date"
    packages.install(settings, packages.FOR_TESTS)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _PINNED:
        shutil.copyfile(PINS / name, folder / name)
    log = settings.cache / "logs" / "npm.log"
    logged(["npm", "ci", "--ignore-scripts"], log, cwd=folder, hint=f"see {log}; is there a network?")
    stamps.set(folder.name, value)
    return "installed"
