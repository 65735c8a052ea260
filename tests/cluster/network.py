"""The cluster's network: a namespace, a veth pair to the host, and calls from inside it."""

from __future__ import annotations

import ctypes
import ipaddress
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.cluster.console import Problem
from tests.cluster.processes import all_pids
from tests.cluster.settings import Settings
from tests.cluster.shell import output, succeeds

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


def exists(settings: Settings) -> bool:
    return settings.netns.exists()


def create(settings: Settings) -> None:
    """Create the namespace and the veth pair. Raises Problem if the addresses are in use."""
    check_free(settings)
    inside = settings.nsenter()
    output(["ip", "netns", "add", settings.name])
    output(["ip", "link", "add", settings.link, "type", "veth", "peer", "name", "eth0", "netns", settings.name])
    output(["ip", "addr", "add", f"{settings.host_ip}/24", "dev", settings.link])
    output(["ip", "link", "set", settings.link, "up"])
    output([*inside, "ip", "addr", "add", f"{settings.node_ip}/24", "dev", "eth0"])
    output([*inside, "ip", "link", "set", "lo", "up"])
    output([*inside, "ip", "link", "set", "eth0", "up"])
    output([*inside, "ip", "route", "add", "default", "via", settings.host_ip])
    output([*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1"])


def check_free(settings: Settings) -> None:
    """Raise Problem if another interface has an address in the cluster's subnet."""
    wanted = ipaddress.ip_network(f"{settings.subnet}.0/24")
    for link in json.loads(output(["ip", "-json", "addr"])):
        for address in link.get("addr_info", []):
            if address["family"] == "inet" and ipaddress.ip_address(address["local"]) in wanted:
                raise Problem(
                    f"the addresses {wanted} are in use by interface {link['ifname']}",
                    "choose others, for example: QWEN_CLUSTER_SUBNET=192.168.251 make cluster-up",
                )


def remove(settings: Settings) -> None:
    """Remove the namespace and the veth pair; does nothing if they are missing."""
    if succeeds(["ip", "link", "show", settings.link]):
        output(["ip", "link", "del", settings.link])
    if exists(settings):
        output(["ip", "netns", "del", settings.name])


def members(settings: Settings) -> list[int]:
    """Processes in the cluster's namespace."""
    if not exists(settings):
        return []
    inode = settings.netns.stat().st_ino
    found = []
    for pid in all_pids():
        try:
            if os.stat(f"/proc/{pid}/ns/net").st_ino == inode:
                found.append(pid)
        except OSError:
            continue
    return found


def inside(netns: Path, action: Callable[[], T]) -> T:
    """Call `action` in a thread inside the cluster's network.

    Sockets that the action opens reach ClusterIPs, pods and the registry. The cluster's DNS does
    not resolve names there: use addresses. Only the thread moves; the rest of the process stays.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            enter(netns)
            results.append(action())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="in-cluster")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def enter(netns: Path) -> None:
    """Move the calling thread into a network namespace, permanently."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        handle = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Problem("the local cluster is not running", "run: make cluster-up") from error
    try:
        if libc.setns(handle, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise Problem(f"cannot enter the cluster's network: {os.strerror(number)}", "run as root")
    finally:
        os.close(handle)
