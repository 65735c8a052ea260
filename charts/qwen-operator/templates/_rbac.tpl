{{- /* The operator's permissions in a namespace that it serves. A test keeps them equal to the
     table in the operator's kube module. No wildcards, no access to Secrets. */ -}}
{{- define "qwen-operator.namespaceRules" -}}
# The QwenServices: read them, and write only their status and, if it is left out, the number of
# replicas.
- apiGroups: [qwen-vllm.io]
  resources: [qwenservices]
  verbs: [get, list, watch]
- apiGroups: [qwen-vllm.io]
  resources: [qwenservices/status, qwenservices/scale]
  verbs: [patch]
# Owner references that block deletion, if the cluster enforces the admission plugin
# OwnerReferencesPermissionEnforcement.
- apiGroups: [qwen-vllm.io]
  resources: [qwenservices/finalizers]
  verbs: [update]
# The children: watch and apply them, and delete them when the spec no longer asks for them.
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors, prometheusrules]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies, ingresses]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [get, list, watch, create, patch, delete]
# The model cache: weights are expensive, so there is no permission to delete them.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch]
# Pods: watch, annotate (live settings, restart in place), gate and evict them. There is no
# permission to create or delete them.
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
  verbs: [list, create, patch]
# ResourceClaims that pods name: nothing else says that one is missing.
- apiGroups: [resource.k8s.io]
  resources: [resourceclaims]
  verbs: [get]
{{- end -}}

{{- /* Permissions that only a cluster-wide operator has. It leaves pods on a node that is not ready
     to Kubernetes, and says if no IngressClass serves an Ingress. */ -}}
{{- define "qwen-operator.clusterRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get]
- apiGroups: [networking.k8s.io]
  resources: [ingressclasses]
  verbs: [list]
{{- end -}}

{{- /* Returns "true" if the operator may list Prometheus objects, else nothing. */ -}}
{{- define "qwen-operator.listsPrometheuses" -}}
{{- $wanted := .Values.rbac.listPrometheuses | toString -}}
{{- if or (eq $wanted "true") (and (eq $wanted "Auto") (not .Values.watchNamespaces)) -}}true{{- end -}}
{{- end -}}

{{- /* The optional permission to read which Prometheus selects what. The operator lets the one that
     scrapes a service pass its NetworkPolicy, and says if none reads the alerts. */ -}}
{{- define "qwen-operator.prometheusRules" -}}
- apiGroups: [monitoring.coreos.com]
  resources: [prometheuses]
  verbs: [list]
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list]
{{- end -}}

{{- define "qwen-operator.roleName" -}}
{{- /* Two releases in different namespaces may serve the same namespaces, so the name contains the
     release's namespace. */ -}}
{{- printf "%s-%s" (include "qwen-operator.fullname" .) .Release.Namespace | trunc 63 | trimSuffix "-" -}}
{{- end -}}
