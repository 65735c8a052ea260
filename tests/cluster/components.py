"""Command lines and configuration files of the cluster's parts: pure functions of the settings."""

from __future__ import annotations

import json

from tests.cluster.settings import (
    DNS_SERVICE_IP,
    NODE,
    NODE_POD_CIDR,
    PAUSE_IMAGE,
    POD_CIDR,
    SERVICE_CIDR,
    Settings,
)

CNI_NETWORK = "qwen-vllm"


def etcd(settings: Settings) -> list[str]:
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    return [
        *settings.nsenter(),
        "etcd",
        f"--data-dir={settings.run}/etcd",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
    ]


def apiserver(settings: Settings) -> list[str]:
    pki = settings.pki
    return [
        *settings.nsenter(),
        f"{settings.bin}/kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        f"--advertise-address={settings.node_ip}",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
        f"--kubelet-client-certificate={pki}/admin.crt",
        f"--kubelet-client-key={pki}/admin.key",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def controller_manager(settings: Settings) -> list[str]:
    pki = settings.pki
    return [
        *settings.nsenter(),
        f"{settings.bin}/kube-controller-manager",
        f"--kubeconfig={settings.admin_conf}",
        "--leader-elect=false",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={pki}/sa.key",
        f"--root-ca-file={pki}/ca.crt",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        f"--cluster-cidr={POD_CIDR}",
        "--allocate-node-cidrs",
    ]


def scheduler(settings: Settings) -> list[str]:
    program = f"{settings.bin}/kube-scheduler"
    return [*settings.nsenter(), program, f"--kubeconfig={settings.admin_conf}", "--leader-elect=false"]


def kubelet(settings: Settings) -> list[str]:
    return [
        *settings.nsenter(),
        f"{settings.bin}/kubelet",
        f"--config={settings.run}/kubelet.json",
        f"--kubeconfig={settings.kubelet_conf}",
        f"--hostname-override={NODE}",
        f"--node-ip={settings.node_ip}",
        f"--root-dir={settings.run}/kubelet",
    ]


def kube_proxy(settings: Settings) -> list[str]:
    return [*settings.nsenter(), f"{settings.bin}/kube-proxy", f"--config={settings.run}/kube-proxy.json"]


def coredns(settings: Settings) -> list[str]:
    return [*settings.nsenter(), f"{settings.bin}/coredns", "-conf", f"{settings.run}/Corefile"]


def registry(settings: Settings) -> list[str]:
    return [*settings.nsenter(), "docker-registry", "serve", f"{settings.run}/registry.json"]


def containerd(settings: Settings) -> list[str]:
    return [*settings.nsenter(), "containerd", "-c", f"{settings.run}/containerd.toml"]


def files(settings: Settings) -> dict[str, str]:
    """The configuration files by their path under the run folder. JSON is valid YAML."""
    return {
        "kubelet.json": json.dumps(kubelet_config(settings), indent=1),
        "kube-proxy.json": json.dumps(kube_proxy_config(settings), indent=1),
        "registry.json": json.dumps(registry_config(settings), indent=1),
        "cni/10-bridge.conflist": json.dumps(cni_config(settings), indent=1),
        "containerd.toml": containerd_config(settings),
        "Corefile": corefile(settings),
    }


def kubelet_config(settings: Settings) -> dict[str, object]:
    pki = settings.pki
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
            "webhook": {"enabled": True},
            "anonymous": {"enabled": False},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet.key",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": settings.cgroup,
        "failSwapOn": False,
        # Small images do not wait for large ones.
        "serializeImagePulls": False,
        "clusterDNS": [DNS_SERVICE_IP],
        "clusterDomain": "cluster.local",
        # Pods use only the cluster's DNS; the host's search domains would slow down every lookup.
        "resolvConf": f"{settings.run}/resolv.conf",
        "containerRuntimeEndpoint": f"unix://{settings.containerd_socket}",
        "podLogsDir": f"{settings.run}/podlogs",
        "volumePluginDir": f"{settings.run}/volume-plugins",
        # On a disk that is full for another reason, the images of the tests would go first.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"imagefs.available": "1%", "nodefs.available": "1%", "memory.available": "100Mi"},
    }


def kube_proxy_config(settings: Settings) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": NODE,
        "clientConnection": {"kubeconfig": str(settings.admin_conf)},
        # Outside the initial network namespace nf_conntrack_max is read-only: kube-proxy exits
        # without these zeros.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def registry_config(settings: Settings) -> dict[str, object]:
    return {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(settings.registry_data)}, "delete": {"enabled": True}},
        "http": {"addr": "127.0.0.1:5000"},
        "log": {"level": "warn", "accesslog": {"disabled": True}},
    }


def cni_config(settings: Settings) -> dict[str, object]:
    addresses = {
        "type": "host-local",
        "dataDir": f"{settings.run}/cni-addresses",
        "ranges": [[{"subnet": NODE_POD_CIDR}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": addresses,
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": CNI_NETWORK, "plugins": [bridge, portmap]}


def containerd_config(settings: Settings) -> str:
    return f"""\
version = 2
root = "{settings.home}/containerd"
state = "{settings.run}/containerd"
[grpc]
  address = "{settings.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Root in a sandbox may not lower oom_score_adj; without this, every pod sandbox fails.
  restrict_oom_score_adj = true
  # So that `down` finds only this cluster's network namespaces.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{settings.run}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    # The registry already keeps the compressed layers; a second copy would cost gigabytes.
    discard_unpacked_layers = true
"""


def corefile(settings: Settings) -> str:
    return f""".:53 {{
    bind {settings.node_ip}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {settings.admin_conf} local
        ttl 5
    }}
    cache 5
}}
"""


def dns_objects(settings: Settings) -> list[dict[str, object]]:
    """The Service at the DNS address; its endpoint is the CoreDNS process on the node."""
    labels = {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"}
    protocols = [("dns", "UDP"), ("dns-tcp", "TCP")]
    ports = [{"name": name, "port": 53, "protocol": protocol} for name, protocol in protocols]
    service: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {"clusterIP": DNS_SERVICE_IP, "ports": ports},
    }
    endpoints: dict[str, object] = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-node",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [settings.node_ip], "conditions": {"ready": True}}],
    }
    return [service, endpoints]
