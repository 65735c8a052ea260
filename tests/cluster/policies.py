"""NetworkPolicies as rules of iptables: the node's network plugin, a plain bridge, enforces none.

`chains` is a pure function of what the cluster has. A packet of a new connection passes the chain
`ENTRY`: first the egress rules of its source, then the ingress rules of its destination. RETURN
admits it in the one and leads to the other. What the node itself sends is not restricted: the
kubelet's probes always reach a pod.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ENTRY = "QWEN-POLICIES"
ADMIT, REFUSE = "RETURN", "DROP"

Object = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """What happens to a packet that matches. An empty field matches every packet."""

    target: str
    source: str = ""
    destination: str = ""
    protocol: str = ""
    ports: str = ""  # a destination port, or `first:last`
    known: bool = False  # only packets of connections that exist


Chains = dict[str, list[Rule]]


@dataclass(frozen=True)
class Pod:
    """A running pod with an address of its own."""

    namespace: str
    labels: Mapping[str, str]
    address: str
    ports: Mapping[tuple[str, str], int]
    """Its named ports by name and protocol."""

    @classmethod
    def of(cls, pod: Object) -> Pod | None:
        """The pod, or None if no policy concerns it: it has ended, or it has the node's address."""
        status, spec, metadata = pod.get("status", {}), pod["spec"], pod["metadata"]
        address = status.get("podIP", "")
        if not address or spec.get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed"):
            return None
        containers = [*spec.get("initContainers", ()), *spec["containers"]]
        ports = {
            (port["name"], port.get("protocol", "TCP")): port["containerPort"]
            for container in containers
            for port in container.get("ports", ())
            if "name" in port
        }
        return cls(metadata["namespace"], metadata.get("labels", {}), address, ports)


def chains(policies: Iterable[Object], pods: Iterable[Object], namespaces: Iterable[Object]) -> Chains:
    """The chains that enforce the policies between these pods, for IPv4."""
    return _Translation(policies, pods, namespaces).chains()


def restore_text(chains: Mapping[str, Sequence[Rule]]) -> str:
    """The input of `iptables-restore --noflush` that creates or replaces the chains."""
    declared = [f":{name} - [0:0]" for name in chains]
    rules = [f"-A {name} {_words(rule)}" for name, listed in chains.items() for rule in listed]
    return _table([*declared, *rules])


def removal_text(names: Iterable[str], hooks: Iterable[str]) -> str:
    """The input of `iptables-restore --noflush` that removes the chains, entered by the hooks."""
    known = sorted(names)
    emptied, removed = [f"-F {name}" for name in known], [f"-X {name}" for name in known]
    return _table([*(f"-D {hook} -j {ENTRY}" for hook in hooks), *emptied, *removed])


def _table(lines: Iterable[str]) -> str:
    return "\n".join(["*filter", *lines, "COMMIT", ""])


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches. An empty one matches everything."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_holds(item, labels) for item in selector.get("matchExpressions", ()))


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values", ())
    outcomes: dict[str, bool] = {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }
    return outcomes[expression["operator"]]


def networks(block: Object) -> list[str]:
    """The networks of an ipBlock without what it excepts; none of IPv6."""
    left = [ipaddress.ip_network(block["cidr"])]
    for text in block.get("except", ()):
        excepted = ipaddress.ip_network(text)
        left = [part for network in left for part in _without(network, excepted)]
    return [str(network) for network in left if network.version == 4]


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _without(network: _Network, excepted: _Network) -> Iterable[_Network]:
    if not (isinstance(network, ipaddress.IPv4Network) and isinstance(excepted, ipaddress.IPv4Network)):
        return [network]
    if network.subnet_of(excepted):
        return []
    if excepted.subnet_of(network):
        return network.address_exclude(excepted)
    return [network]


def _words(rule: Rule) -> str:
    words = ["-m conntrack --ctstate ESTABLISHED,RELATED"] if rule.known else []
    options = {"-s": rule.source, "-d": rule.destination, "-p": rule.protocol.lower(), "--dport": rule.ports}
    words += [f"{option} {value}" for option, value in options.items() if value]
    return " ".join([*words, f"-j {rule.target}"])


def _types(policy: Object) -> Sequence[str]:
    spec = policy["spec"]
    default = ["Ingress", "Egress"] if "egress" in spec else ["Ingress"]
    types: Sequence[str] = spec.get("policyTypes") or default
    return types


@dataclass(frozen=True)
class _Peer:
    """Who may be at the other end: a pod, or a network. Neither means everybody."""

    network: str = ""
    pod: Pod | None = None


class _Translation:
    def __init__(self, policies: Iterable[Object], pods: Iterable[Object], namespaces: Iterable[Object]) -> None:
        self._policies = list(policies)
        self._pods = [found for pod in pods if (found := Pod.of(pod)) is not None]
        self._labels = {item["metadata"]["name"]: item["metadata"].get("labels", {}) for item in namespaces}

    def chains(self) -> Chains:
        found: Chains = {ENTRY: [Rule(ADMIT, known=True)]}
        for pod in self._pods:
            for direction in ("Egress", "Ingress"):
                restricting = [policy for policy in self._policies if _restricts(policy, pod, direction)]
                if not restricting:
                    continue
                name = f"QWEN-{direction.upper()}-{len(found)}"
                itself = Rule(ADMIT, source=pod.address, destination=pod.address)
                admitted = [rule for policy in restricting for rule in self._admitted(policy, pod, direction)]
                found[name] = [itself, *dict.fromkeys(admitted), Rule(REFUSE)]
                if direction == "Egress":
                    found[ENTRY].append(Rule(name, source=pod.address))
                else:
                    found[ENTRY].append(Rule(name, destination=pod.address))
        return found

    def _admitted(self, policy: Object, pod: Pod, direction: str) -> Iterator[Rule]:
        return self._to(policy) if direction == "Egress" else self._from(policy, pod)

    def _from(self, policy: Object, pod: Pod) -> Iterator[Rule]:
        for item in policy["spec"].get("ingress", ()):
            for peer in self._peers(item.get("from"), policy):
                for protocol, ports in _ports(item, pod):
                    yield Rule(ADMIT, source=peer.network, protocol=protocol, ports=ports)

    def _to(self, policy: Object) -> Iterator[Rule]:
        for item in policy["spec"].get("egress", ()):
            for peer in self._peers(item.get("to"), policy):
                for protocol, ports in _ports(item, peer.pod):
                    yield Rule(ADMIT, destination=peer.network, protocol=protocol, ports=ports)

    def _peers(self, listed: Sequence[Object] | None, policy: Object) -> Iterator[_Peer]:
        """The other ends that a rule names. A rule without any names everybody."""
        if not listed:
            yield _Peer()
            # For named ports, which are other numbers at each pod.
            yield from (_Peer(pod.address, pod) for pod in self._pods)
        for peer in listed or ():
            if "ipBlock" in peer:
                yield from (_Peer(network) for network in networks(peer["ipBlock"]))
            else:
                yield from (_Peer(pod.address, pod) for pod in self._pods if self._is_peer(peer, pod, policy))

    def _is_peer(self, peer: Object, pod: Pod, policy: Object) -> bool:
        namespaces = peer.get("namespaceSelector")
        if namespaces is None:
            there = pod.namespace == policy["metadata"]["namespace"]
        else:
            there = selects(namespaces, self._labels.get(pod.namespace, {}))
        return there and selects(peer.get("podSelector") or {}, pod.labels)


def _restricts(policy: Object, pod: Pod, direction: str) -> bool:
    same = policy["metadata"]["namespace"] == pod.namespace
    return same and direction in _types(policy) and selects(policy["spec"].get("podSelector") or {}, pod.labels)


def _ports(rule: Object, pod: Pod | None) -> Iterator[tuple[str, str]]:
    """Protocol and ports that a rule admits at a pod. A rule without any admits all."""
    if not rule.get("ports"):
        yield "", ""
    for port in rule.get("ports", ()):
        protocol, number = port.get("protocol", "TCP"), port.get("port")
        if isinstance(number, str):
            number = pod.ports.get((number, protocol)) if pod else None
            if number is None:
                continue
        if number is None:
            yield protocol, ""
        else:
            last = port.get("endPort")
            yield protocol, f"{number}:{last}" if last else str(number)
