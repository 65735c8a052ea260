{{- /* Rejects what the schema cannot: combinations that would install and then not work. */ -}}
{{- define "qwen-operator.validate" -}}
{{- include "qwen-operator.validateNames" . -}}
{{- include "qwen-operator.validatePod" . -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.leaderElection.enabled) -}}
{{- fail "replicas: more than one operator pod requires leaderElection.enabled=true" -}}
{{- end -}}
{{- if and .Values.strategy (not .Values.leaderElection.enabled) (ne (toString .Values.strategy.type) "Recreate") -}}
{{- fail "strategy: without leader election two operators must never run at once, so its type can only be Recreate" -}}
{{- end -}}
{{- end -}}

{{- define "qwen-operator.validateNames" -}}
{{- $name := include "qwen-operator.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "the release's name makes the name %s, which a Service cannot have; set fullnameOverride" $name) -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.name: required with serviceAccount.create=false; the chart binds no rights to the account `default`" -}}
{{- end -}}
{{- if and .Values.priorityClass.create .Values.priorityClass.name -}}
{{- if .Values.watchNamespaces -}}
{{- fail (printf "priorityClass.name: with watchNamespaces the chart creates no PriorityClass, which is cluster-scoped; to use the existing %s, set priorityClass.create=false" .Values.priorityClass.name) -}}
{{- else if hasPrefix "system-" .Values.priorityClass.name -}}
{{- fail (printf "priorityClass.name: Kubernetes reserves the prefix system-; to use the existing %s, set priorityClass.create=false" .Values.priorityClass.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Variables, volumes and mounts that would replace the chart's own or each other. */ -}}
{{- define "qwen-operator.validatePod" -}}
{{- $own := list -}}
{{- range include "qwen-operator.env" . | fromYamlArray -}}
{{- $own = append $own .name -}}
{{- end -}}
{{- $variables := list -}}
{{- range .Values.extraEnv -}}
{{- if has .name $own -}}
{{- fail (printf "extraEnv: the chart sets %s; change the value that it comes from instead" .name) -}}
{{- end -}}
{{- if has .name $variables -}}
{{- fail (printf "extraEnv: %s is set twice" .name) -}}
{{- end -}}
{{- $variables = append $variables .name -}}
{{- end -}}
{{- $volumes := list "tmp" -}}
{{- range .Values.extraVolumes -}}
{{- if has .name $volumes -}}
{{- fail (printf "extraVolumes: there is a volume %s already" .name) -}}
{{- end -}}
{{- $volumes = append $volumes .name -}}
{{- end -}}
{{- $paths := list "/tmp" -}}
{{- range .Values.extraVolumeMounts -}}
{{- if not (has .name $volumes) -}}
{{- fail (printf "extraVolumeMounts: no volume of extraVolumes is called %s" .name) -}}
{{- end -}}
{{- if has .mountPath $paths -}}
{{- fail (printf "extraVolumeMounts: something is mounted at %s already" .mountPath) -}}
{{- end -}}
{{- $paths = append $paths .mountPath -}}
{{- end -}}
{{- end -}}

{{- /* Values that are set and have no effect, one a line, for the notes. */ -}}
{{- define "qwen-operator.ignored" -}}
{{- $lines := list -}}
{{- if and (not .Values.networkPolicy.enabled) (or .Values.networkPolicy.from .Values.networkPolicy.egress) -}}
{{- $lines = append $lines "networkPolicy.from and networkPolicy.egress, because networkPolicy.enabled is false" -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) .Values.serviceAccount.annotations -}}
{{- $lines = append $lines "serviceAccount.annotations, because serviceAccount.create is false" -}}
{{- end -}}
{{- if and (not .Values.leaderElection.enabled) .Values.leaderElection.leaseName -}}
{{- $lines = append $lines "leaderElection.leaseName, because leaderElection.enabled is false" -}}
{{- end -}}
{{- if hasKey .Values.podAnnotations "kubectl.kubernetes.io/default-container" -}}
{{- $lines = append $lines "podAnnotations, kubectl.kubernetes.io/default-container: the chart sets it" -}}
{{- end -}}
{{- $own := include "qwen-operator.ownLabels" . | fromYaml -}}
{{- range $value := list "commonLabels" "podLabels" -}}
{{- range $key := keys (index $.Values $value) | sortAlpha -}}
{{- if hasKey $own $key -}}
{{- $lines = append $lines (printf "%s, %s: the chart sets it" $value $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $lines }}
  - {{ . }}
{{- end -}}
{{- end -}}
