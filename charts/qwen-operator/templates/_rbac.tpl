{{- /* What the operator does in a namespace that it serves: exactly the table at the top of kube.py, which a test compares.
     No wildcard, nothing on Secrets. */ -}}
{{- define "qwen-operator.namespaceRules" -}}
# The services themselves: read, and only their status written.
- apiGroups: [qwen-vllm.io]
  resources: [qwenservices]
  verbs: [get, list, watch]
- apiGroups: [qwen-vllm.io]
  resources: [qwenservices/status]
  verbs: [patch]
# Owner references that block deletion, where the cluster checks them (OwnerReferencesPermissionEnforcement).
- apiGroups: [qwen-vllm.io]
  resources: [qwenservices/finalizers]
  verbs: [update]
# Children: watched, applied, deleted when no longer asked for.
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors, prometheusrules]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
# The model cache: weights are expensive, so no right to delete them.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch]
# Pods: observed, annotated (live settings, restart in place), gated, evicted. Never created, never deleted.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{- /* What only a cluster-wide operator may see: a pod on a node that is gone is nobody's patient. */ -}}
{{- define "qwen-operator.clusterRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get]
{{- end -}}

{{- define "qwen-operator.roleName" -}}
{{- /* Two releases may serve the same namespace list from different namespaces: the name tells them apart. */ -}}
{{- printf "%s-%s" (include "qwen-operator.fullname" .) .Release.Namespace | trunc 63 | trimSuffix "-" -}}
{{- end -}}
