"""`python3 -m tests.cluster COMMAND`: the Makefile's commands, for the standard library alone."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from collections.abc import Callable

from tests.cluster import (
    builds,
    checks,
    clusters,
    demo,
    images,
    javascript,
    node,
    packages,
    python_env,
    release,
    requirements,
    sbom,
    shell,
)
from tests.cluster.console import Problem, complain, say, side_by_side
from tests.cluster.settings import ROOT, Settings

Arguments = list[str]


def main(arguments: list[str]) -> int:
    """Run one command. Returns the exit code; a Problem prints what is wrong and how to fix it."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, text, more) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if more:
            command.add_argument("arguments", nargs=more)
    chosen = parser.parse_args(arguments)
    try:
        COMMANDS[chosen.command][0](Settings.from_env(), getattr(chosen, "arguments", []))
    except Problem as problem:
        complain(problem)
        return 1
    except KeyboardInterrupt:
        complain(Problem("interrupted", "run the same command again to continue"))
        return 130
    return 0


def _cluster(settings: Settings) -> clusters.Cluster:
    return clusters.choose(settings, os.environ.get("CLUSTER", ""))


def _deps(settings: Settings, _: Arguments) -> None:
    """Install everything that builds, tests and the cluster need, in parallel."""
    clusters.ensure_tools(settings)
    side_by_side({"packages of the tests": lambda: packages.install(settings, packages.FOR_TESTS)}, shell.cancel_all)
    side_by_side(
        {
            "Go programs": lambda: builds.ensure(settings, (*builds.FOR_CLUSTER, builds.HELM4, *builds.MONITORING)),
            "Prometheus operator's CRDs": lambda: builds.ensure_crds(settings),
            "Python environment": lambda: python_env.ensure_venv(settings),
            "npm packages": lambda: javascript.LIBRARIES.ensure(settings),
            "base image": lambda: images.ensure_base(settings),
        },
        shell.cancel_all,
    )


def _venv(settings: Settings, _: Arguments) -> None:
    python_env.require_python()
    packages.install_without_cluster(settings)
    python_env.ensure_uv(settings)
    side_by_side(
        {
            "Helm and actionlint": lambda: builds.ensure(settings, builds.FOR_CHECKS),
            "Python environment": lambda: python_env.ensure_venv(settings),
        },
        shell.cancel_all,
    )


def _clients(settings: Settings, _: Arguments) -> None:
    """Install the client programs that only `make test-full` runs."""
    packages.install(settings, packages.FOR_CLIENTS)
    side_by_side(
        {
            "environment of the client programs": lambda: python_env.ensure_clients(settings),
            "npm packages": lambda: javascript.LIBRARIES.ensure(settings),
            "coding agents": lambda: javascript.AGENTS.ensure(settings),
        },
        shell.cancel_all,
    )


def _images(settings: Settings, _: Arguments) -> None:
    _cluster(settings).prepare()


def _demo(settings: Settings, _: Arguments) -> None:
    demo.run(_cluster(settings))


def _up(settings: Settings, _: Arguments) -> None:
    _cluster(settings).up()


def _down(settings: Settings, _: Arguments) -> None:
    _cluster(settings).down()


def _status(settings: Settings, _: Arguments) -> None:
    if not node.status(settings):
        raise Problem("the local cluster is not usable", "run: make cluster-up")


def _test(_: Settings, parts: Arguments) -> None:
    unknown = [part for part in parts if part not in checks.TEST_PARTS]
    if unknown:
        raise Problem(f"unknown part {unknown[0]}", f"known parts: {', '.join(checks.TEST_PARTS)}")
    checks.test(parts)


def _test_full(_: Settings, arguments: Arguments) -> None:
    checks.test_full(minutes=float(arguments[0]), cases=int(arguments[1]))


def _lint(_: Settings, __: Arguments) -> None:
    checks.lint()


def _port_free(_: Settings, arguments: Arguments) -> None:
    port = int(arguments[0])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            raise Problem(
                f"cannot use port {port}: {error.strerror}", "choose another: make serve PORT=8001"
            ) from error


def _requirements(settings: Settings, _: Arguments) -> None:
    requirements.compile_all(settings)


def _sbom(settings: Settings, _: Arguments) -> None:
    for path in sbom.write_all(settings, sbom.FOLDER):
        say(f"wrote {path.relative_to(ROOT)}")


def _release_notes(_: Settings, arguments: Arguments) -> None:
    release.print_notes(arguments[0])


def _release_values(_: Settings, arguments: Arguments) -> None:
    release.set_registry(arguments[0])


def _clean_cache(settings: Settings, _: Arguments) -> None:
    with node.locked(settings):
        shutil.rmtree(settings.cache)


COMMANDS: dict[str, tuple[Callable[[Settings, Arguments], None], str, str | int]] = {
    "deps": (_deps, "install and build what is missing", 0),
    "venv": (_venv, "update the Python environment, Helm and actionlint", 0),
    "clients": (_clients, "install the client programs of test-full", 0),
    "images": (_images, "build both images and make them available to the cluster", 0),
    "demo": (_demo, "serve a model and query it through its Service", 0),
    "up": (_up, "start the cluster", 0),
    "down": (_down, "stop the cluster and remove what it leaves", 0),
    "status": (_status, "show which parts of the local cluster run", 0),
    "test": (_test, f"run parts of the tests: {', '.join(checks.TEST_PARTS)}", "+"),
    "test-full": (_test_full, "run what takes longer: MINUTES of soak, CASES of fuzz", 2),
    "lint": (_lint, "run all static checks", 0),
    "port-free": (_port_free, "fail if a TCP port is in use", 1),
    "requirements": (_requirements, "pin requirements/*.txt again", 0),
    "sbom": (_sbom, "write what is in the images", 0),
    "release-notes": (_release_notes, "print the changelog of VERSION, which the chart must have", 1),
    "release-values": (_release_values, "write REGISTRY into the values of the chart", 1),
    "clean-cache": (_clean_cache, "remove the caches", 0),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
