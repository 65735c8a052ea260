"""The npm packages of clients, pinned by lock files without addresses."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import packages
from tests.cluster.settings import ROOT, Settings
from tests.cluster.shell import Stamps, digest, logged

_PINNED = ("package.json", "package-lock.json", ".npmrc")


@dataclass(frozen=True)
class Packages:
    """Packages that are installed together: the name of their folder, and where they are pinned."""

    name: str
    pins: Path

    def installed(self, settings: Settings) -> Path:
        """The folder whose node_modules contains the packages."""
        return settings.cache / self.name

    def ensure(self, settings: Settings) -> str:
        """Install the pinned packages. Returns a one-line summary. Raises Problem."""
        stamps = Stamps(settings.cache / "stamps")
        value = digest([self.pins / name for name in _PINNED])
        folder = self.installed(settings)
        if stamps.fresh(self.name, value) and (folder / "node_modules").is_dir():
            return "up to date"
        packages.install(settings, packages.FOR_TESTS)
        folder.mkdir(parents=True, exist_ok=True)
        for name in _PINNED:
            shutil.copyfile(self.pins / name, folder / name)
        log = settings.cache / "logs" / f"{self.name}.log"
        logged(["npm", "ci", "--ignore-scripts"], log, cwd=folder, hint=f"see {log}; is there a network?")
        stamps.set(self.name, value)
        return "installed"


LIBRARIES = Packages("npm-clients", ROOT / "tests" / "integration" / "js")
# Programs, a gigabyte of them: only `make test-full` runs them.
AGENTS = Packages("npm-agents", ROOT / "tests" / "clients" / "agents")
