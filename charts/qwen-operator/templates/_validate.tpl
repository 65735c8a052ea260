{{- /* Rejects what the schema cannot: combinations that would install and then not work. */ -}}
{{- define "qwen-operator.validate" -}}
{{- include "qwen-operator.validateNames" . -}}
{{- include "qwen-operator.validatePod" . -}}
{{- include "qwen-operator.validatePodTemplate" . -}}
{{- include "qwen-operator.validateResources" . -}}
{{- include "qwen-operator.validateStrategy" . -}}
{{- include "qwen-operator.validateTolerations" . -}}
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
{{- $paths := list "/tmp" -}}
{{- if .Values.monitoring.metricsKey.secretName -}}
{{- $volumes = append $volumes "metrics-key" -}}
{{- $paths = append $paths (include "qwen-operator.metricsKeyFolder" .) -}}
{{- end -}}
{{- range .Values.extraVolumes -}}
{{- if has .name $volumes -}}
{{- fail (printf "extraVolumes: there is a volume %s already" .name) -}}
{{- end -}}
{{- $volumes = append $volumes .name -}}
{{- end -}}
{{- range .Values.extraVolumeMounts -}}
{{- if not (has .name $volumes) -}}
{{- fail (printf "extraVolumeMounts: no volume of extraVolumes is called %s" .name) -}}
{{- end -}}
{{- $path := clean .mountPath -}}
{{- if has $path $paths -}}
{{- fail (printf "extraVolumeMounts: something is mounted at %s already" $path) -}}
{{- end -}}
{{- $paths = append $paths $path -}}
{{- end -}}
{{- end -}}

{{- /* Paths of podTemplate.allow that name no field, which would allow nothing. */ -}}
{{- define "qwen-operator.validatePodTemplate" -}}
{{- if and .Values.podTemplate.allow (not (has "*" .Values.podTemplate.allow)) -}}
{{- $version := (.Files.Get "files/crd.yaml" | fromYaml).spec.versions | first -}}
{{- $fields := $version.schema.openAPIV3Schema.properties.spec.properties.podTemplate -}}
{{- range $path := .Values.podTemplate.allow -}}
{{- $field := $fields -}}
{{- range $name := splitList "." $path -}}
{{- $field = default $field (get $field "items") -}}
{{- $known := default dict (get $field "properties") -}}
{{- if hasKey $known $name -}}
{{- $field = get $known $name -}}
{{- else if not (hasKey $field "additionalProperties") -}}
{{- fail (printf "podTemplate.allow: %s is no field of podTemplate, so it would allow nothing" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A quantity of Kubernetes as a number, such as 134217728 for 128Mi. */ -}}
{{- define "qwen-operator.quantity" -}}
{{- $text := toString . -}}
{{- $suffix := regexFind "[numkKMGTPE]?i?$" $text -}}
{{- $factors := dict "" 1.0 "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 -}}
{{- $factors = merge $factors (dict "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0) -}}
{{- $factors = merge $factors (dict "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0) -}}
{{- mulf (float64 (trimSuffix $suffix $text)) (get $factors $suffix) -}}
{{- end -}}

{{- define "qwen-operator.validateResources" -}}
{{- $resources := default dict .Values.resources -}}
{{- $limits := default dict $resources.limits -}}
{{- range $resource, $request := default dict $resources.requests -}}
{{- if hasKey $limits $resource -}}
{{- $limit := get $limits $resource -}}
{{- if gt (float64 (include "qwen-operator.quantity" $request)) (float64 (include "qwen-operator.quantity" $limit)) -}}
{{- fail (printf "resources.requests.%s: %v is above the limit (resources.limits.%s: %v)" $resource $request $resource $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "qwen-operator.validateStrategy" -}}
{{- $strategy := default dict .Values.strategy -}}
{{- $rolling := default dict $strategy.rollingUpdate -}}
{{- if and (eq (toString $strategy.type) "Recreate") (hasKey $strategy "rollingUpdate") -}}
{{- fail "strategy.rollingUpdate: the type Recreate allows none; leave it out, or set strategy.type=RollingUpdate" -}}
{{- end -}}
{{- $zero := list "0" "0%" -}}
{{- if and (has (toString $rolling.maxSurge) $zero) (has (toString $rolling.maxUnavailable) $zero) -}}
{{- fail "strategy.rollingUpdate: maxSurge and maxUnavailable are both 0, so no pod could ever be replaced" -}}
{{- end -}}
{{- end -}}

{{- define "qwen-operator.validateTolerations" -}}
{{- range $index, $toleration := .Values.tolerations -}}
{{- $path := printf "tolerations[%d]" $index -}}
{{- $exists := eq (toString .operator) "Exists" -}}
{{- if and $exists .value -}}
{{- fail (printf "%s.value: the operator Exists compares no value; leave it out, or use the operator Equal" $path) -}}
{{- end -}}
{{- if and (not .key) (not $exists) -}}
{{- fail (printf "%s.key: only the operator Exists works without a key" $path) -}}
{{- end -}}
{{- if and (hasKey . "tolerationSeconds") (ne (toString .effect) "NoExecute") -}}
{{- fail (printf "%s.tolerationSeconds: only the effect NoExecute has a time" $path) -}}
{{- end -}}
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
{{- if and (not .Values.rbac.create) (eq (toString .Values.rbac.listPrometheuses) "true") -}}
{{- $lines = append $lines "rbac.listPrometheuses, because rbac.create is false" -}}
{{- end -}}
{{- if and (not .Values.crds.enabled) (not (and .Values.crds.keep .Values.crds.protect)) -}}
{{- $lines = append $lines "crds.keep and crds.protect, because crds.enabled is false" -}}
{{- end -}}
{{- $defaults := .Files.Get "files/defaults.yaml" | fromYaml -}}
{{- $value := int64 .Values.priorityClass.value -}}
{{- if and (not (include "qwen-operator.createsPriorityClass" .)) (ne $value (int64 $defaults.priorityClass.value)) -}}
{{- $lines = append $lines "priorityClass.value, because the chart creates no PriorityClass" -}}
{{- end -}}
{{- $key := .Values.monitoring.metricsKey -}}
{{- if and (not $key.secretName) (ne $key.secretKey $defaults.monitoring.metricsKey.secretKey) -}}
{{- $lines = append $lines "monitoring.metricsKey.secretKey, because monitoring.metricsKey.secretName is empty" -}}
{{- end -}}
{{- if hasKey .Values.podAnnotations "kubectl.kubernetes.io/default-container" -}}
{{- $lines = append $lines "podAnnotations, kubectl.kubernetes.io/default-container: the chart sets it" -}}
{{- end -}}
{{- $own := include "qwen-operator.ownLabels" . | fromYaml -}}
{{- $labels := dict "commonLabels" .Values.commonLabels "podLabels" .Values.podLabels "monitoring.dashboards.labels" .Values.monitoring.dashboards.labels -}}
{{- range $value := keys $labels | sortAlpha -}}
{{- range $key := keys (default dict (get $labels $value)) | sortAlpha -}}
{{- if hasKey $own $key -}}
{{- $lines = append $lines (printf "%s, %s: the chart sets it" $value $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $lines }}
  - {{ . }}
{{- end -}}
{{- end -}}
