"""The rules that stand for NetworkPolicies admit what Kubernetes documents, and nothing else.

Each case asks what becomes of a new connection. A small interpreter of the rules answers.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from tests.cluster import policies
from tests.cluster.policies import ADMIT, ENTRY, REFUSE, Chains, Rule

Object = dict[str, Any]

NODE = "192.168.250.2"
OUTSIDE = "203.0.113.9"
NAMESPACES = [
    {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, "team": team}}}
    for name, team in (("news", "a"), ("shop", "a"), ("monitoring", "b"))
]


def pod(namespace: str, address: str, *ports: Object, phase: str = "Running", **labels: str) -> Object:
    return {
        "metadata": {"namespace": namespace, "name": address, "labels": labels},
        "spec": {"containers": [{"name": "a", "ports": list(ports)}]},
        "status": {"podIP": address, "phase": phase},
    }


HTTP = {"name": "http", "containerPort": 8000, "protocol": "TCP"}
SERVER, SECOND, CLIENT = "10.244.0.10", "10.244.0.11", "10.244.0.12"
SHOP, SCRAPER, ENDED = "10.244.0.13", "10.244.0.14", "10.244.0.15"
PODS = [
    pod("news", SERVER, HTTP, {"containerPort": 9000}, app="server"),
    pod("news", SECOND, {**HTTP, "containerPort": 8001}, app="server", tier="two"),
    pod("news", CLIENT, app="client"),
    pod("shop", SHOP, app="client"),
    pod("monitoring", SCRAPER, app="prometheus"),
    pod("news", ENDED, phase="Succeeded", app="client"),
]


def policy(spec: Object, namespace: str = "news") -> Object:
    return {"metadata": {"namespace": namespace}, "spec": {"podSelector": {"matchLabels": {"app": "server"}}, **spec}}


def admitted(
    found: Chains, source: str, destination: str, port: int = 8000, protocol: str = "TCP", *, chain: str = ENTRY
) -> bool:
    """Whether the first packet of a connection passes the chains."""
    for rule in found[chain]:
        if not fits(rule, source, destination, port, protocol):
            continue
        if rule.target == REFUSE:
            return False
        if rule.target == ADMIT:
            return True
        if not admitted(found, source, destination, port, protocol, chain=rule.target):
            return False
    return True


def fits(rule: Rule, source: str, destination: str, port: int, protocol: str) -> bool:
    if rule.known:  # the packet is the first one
        return False
    for network, address in ((rule.source, source), (rule.destination, destination)):
        if network and ipaddress.ip_address(address) not in ipaddress.ip_network(network):
            return False
    first, _, last = rule.ports.partition(":")
    there = not first or int(first) <= port <= int(last or first)
    return there and rule.protocol in ("", protocol)


def translated(*listed: Object) -> Chains:
    return policies.chains(listed, PODS, NAMESPACES)


def test_without_policies_everything_is_admitted() -> None:
    found = translated()
    assert found == {ENTRY: [Rule(ADMIT, known=True)]}
    assert admitted(found, SHOP, SERVER)


def sources(found: Chains, destination: str = SERVER, port: int = 8000) -> set[str]:
    """Who may connect to a pod, of all pods and an address outside of the cluster."""
    everybody = (SERVER, SECOND, CLIENT, SHOP, SCRAPER, OUTSIDE)
    return {source for source in everybody if admitted(found, source, destination, port)}


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ([], {SECOND, CLIENT, SHOP, SCRAPER, OUTSIDE}),
        ([{"podSelector": {}}], {SECOND, CLIENT}),
        ([{"podSelector": {"matchLabels": {"app": "client"}}}], {CLIENT}),
        ([{"namespaceSelector": {}}], {SECOND, CLIENT, SHOP, SCRAPER}),
        ([{"namespaceSelector": {"matchLabels": {"team": "a"}}}], {SECOND, CLIENT, SHOP}),
        (
            [{"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": {"matchLabels": {"app": "client"}}}],
            {CLIENT, SHOP},
        ),
        (
            [
                {"namespaceSelector": {"matchLabels": {"team": "b"}}},
                {"podSelector": {"matchLabels": {"app": "client"}}},
            ],
            {CLIENT, SCRAPER},
        ),
        ([{"ipBlock": {"cidr": "203.0.113.0/24"}}], {OUTSIDE}),
        ([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["203.0.113.0/28", "10.244.0.12/32"]}}], {SECOND, SHOP, SCRAPER}),
        ([{"ipBlock": {"cidr": "2001:db8::/32"}}], set()),
        ([{"podSelector": {"matchLabels": {"app": "nobody"}}}], set()),
    ],
)
def test_a_rule_admits_the_peers_that_it_names(peers: list[Object], expected: set[str]) -> None:
    found = translated(policy({"ingress": [{"from": peers}]}))
    assert sources(found) == expected | {SERVER}, "a pod always reaches itself"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ({"key": "app", "operator": "In", "values": ["client", "nothing"]}, {CLIENT}),
        ({"key": "app", "operator": "NotIn", "values": ["client"]}, {SECOND}),
        ({"key": "tier", "operator": "NotIn", "values": ["two"]}, {CLIENT}),
        ({"key": "tier", "operator": "Exists"}, {SECOND}),
        ({"key": "tier", "operator": "DoesNotExist"}, {CLIENT}),
    ],
)
def test_selectors_may_have_expressions(expression: Object, expected: set[str]) -> None:
    found = translated(policy({"ingress": [{"from": [{"podSelector": {"matchExpressions": [expression]}}]}]}))
    assert sources(found) == expected | {SERVER}


def test_a_policy_without_rules_isolates_the_pods_that_it_selects_and_no_others() -> None:
    found = translated(policy({}))
    assert sources(found) == {SERVER}
    assert sources(found, SECOND) == {SECOND}
    assert len(sources(found, CLIENT)) == 6
    # In another namespace it selects nothing.
    assert translated(policy({}, "shop")) == translated()


def test_a_rule_admits_only_its_ports() -> None:
    ports = [{"port": "http", "protocol": "TCP"}, {"port": 9000, "endPort": 9002}, {"port": 53, "protocol": "UDP"}]
    found = translated(policy({"ingress": [{"ports": ports}]}))
    assert [port for port in (7999, 8000, 8001, 8999, 9000, 9002, 9003) if admitted(found, CLIENT, SERVER, port)] == [
        8000,
        9000,
        9002,
    ]
    # A named port is what the pod calls so.
    assert [port for port in (8000, 8001) if admitted(found, CLIENT, SECOND, port)] == [8001]
    assert admitted(found, CLIENT, SERVER, 53, "UDP")
    assert not admitted(found, CLIENT, SERVER, 53)


def test_policies_add_up() -> None:
    to_clients = policy({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]})
    to_monitoring = policy({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]})
    assert sources(translated(to_clients, to_monitoring)) == {SERVER, CLIENT, SCRAPER}


def test_egress_is_restricted_where_a_policy_says_so() -> None:
    rules = [
        {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 6443}]},
        {"to": [{"podSelector": {"matchLabels": {"tier": "two"}}}], "ports": [{"port": "http"}]},
        {"to": [{"ipBlock": {"cidr": f"{OUTSIDE}/32"}}]},
    ]
    found = translated(policy({"policyTypes": ["Egress"], "egress": rules}))
    assert admitted(found, SERVER, NODE, 53, "UDP")
    assert admitted(found, SERVER, NODE, 6443)
    assert not admitted(found, SERVER, NODE, 22)
    assert admitted(found, SERVER, SECOND, 8001)
    assert not admitted(found, SERVER, SECOND, 8000)
    assert admitted(found, SERVER, OUTSIDE, 443)
    assert not admitted(found, SERVER, CLIENT)
    # Ingress is not restricted, nor is anything of other pods.
    assert admitted(found, CLIENT, SERVER, 22)
    assert admitted(found, CLIENT, SHOP, 22)


def test_a_named_port_of_all_pods_is_each_pods_own() -> None:
    found = translated(policy({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": "http"}]}]}))
    assert [address for address in (SERVER, SECOND) if admitted(found, SERVER, address, 8001)] == [SERVER, SECOND]
    assert not admitted(found, SERVER, CLIENT, 8000)


def test_both_ends_must_admit_a_connection() -> None:
    incoming = policy({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]})
    silent = {"metadata": {"namespace": "news"}, "spec": {"podSelector": {}, "policyTypes": ["Egress"]}}
    assert admitted(translated(incoming), CLIENT, SERVER)
    assert not admitted(translated(incoming, silent), CLIENT, SERVER)


def test_pods_that_have_ended_or_use_the_nodes_network_are_left_out() -> None:
    on_node = pod("news", NODE, app="server")
    on_node["spec"]["hostNetwork"] = True
    waiting = pod("news", "", app="server")
    del waiting["status"]["podIP"]
    found = policies.chains([policy({})], [*PODS, on_node, waiting], NAMESPACES)
    assert found == translated(policy({}))
    assert ENDED not in policies.restore_text(translated(policy({"ingress": [{"from": [{"podSelector": {}}]}]})))


def test_rules_become_the_input_of_iptables_restore() -> None:
    found = translated(
        policy(
            {
                "podSelector": {"matchLabels": {"tier": "two"}},
                "ingress": [
                    {
                        "from": [{"podSelector": {"matchLabels": {"app": "client"}}}],
                        "ports": [{"port": "http"}, {"port": 1, "endPort": 2, "protocol": "UDP"}],
                    }
                ],
            }
        )
    )
    assert policies.restore_text(found).splitlines() == [
        "*filter",
        ":QWEN-POLICIES - [0:0]",
        ":QWEN-INGRESS-1 - [0:0]",
        "-A QWEN-POLICIES -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN",
        f"-A QWEN-POLICIES -d {SECOND} -j QWEN-INGRESS-1",
        f"-A QWEN-INGRESS-1 -s {SECOND} -d {SECOND} -j RETURN",
        f"-A QWEN-INGRESS-1 -s {CLIENT} -p tcp --dport 8001 -j RETURN",
        f"-A QWEN-INGRESS-1 -s {CLIENT} -p udp --dport 1:2 -j RETURN",
        "-A QWEN-INGRESS-1 -j DROP",
        "COMMIT",
    ]


def test_removal_leaves_nothing_behind() -> None:
    assert policies.removal_text({ENTRY, "QWEN-INGRESS-1"}, ("FORWARD", "INPUT")).splitlines() == [
        "*filter",
        "-D FORWARD -j QWEN-POLICIES",
        "-D INPUT -j QWEN-POLICIES",
        "-F QWEN-INGRESS-1",
        "-F QWEN-POLICIES",
        "-X QWEN-INGRESS-1",
        "-X QWEN-POLICIES",
        "COMMIT",
    ]
