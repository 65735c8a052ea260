{{- /* Gives values that are null, or that `helm upgrade --reuse-values` does not know yet, their
     defaults. Every template begins with it. In free-form values null removes what is there. */ -}}
{{- define "qwen-operator.complete" -}}
{{- include "qwen-operator.fill" (list .Values (.Files.Get "files/defaults.yaml" | fromYaml)) -}}
{{- include "qwen-operator.removeNulls" .Values -}}
{{- end -}}

{{- /* Removes the keys whose value is null, which Helm leaves in values that it reuses. */ -}}
{{- define "qwen-operator.removeNulls" -}}
{{- $values := . -}}
{{- range $key, $value := . -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $values $key -}}
{{- else if kindIs "map" $value -}}
{{- include "qwen-operator.removeNulls" $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Call it with (list values defaults). */ -}}
{{- define "qwen-operator.fill" -}}
{{- $values := index . 0 -}}
{{- $free := list "resources" "podSecurityContext" "securityContext" "labels" -}}
{{- range $key, $default := index . 1 -}}
{{- if not (has $key $free) -}}
{{- $value := index $values $key -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := set $values $key $default -}}
{{- else if and (kindIs "map" $value) (kindIs "map" $default) -}}
{{- include "qwen-operator.fill" (list $value $default) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "qwen-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* 52 characters leave room for the longest suffix, "-dashboards". */ -}}
{{- define "qwen-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "qwen-operator.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "qwen-operator.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Selectors are immutable: they hold the name, instance and component, and never a version or a
     label of the user. */ -}}
{{- define "qwen-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "qwen-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end -}}

{{- /* The labels that the chart sets. */ -}}
{{- define "qwen-operator.ownLabels" -}}
{{ include "qwen-operator.selectorLabels" . }}
app.kubernetes.io/part-of: qwen-vllm
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* Labels of the user come last and cannot replace the chart's own. Call it with
     (list $ moreLabels). */ -}}
{{- define "qwen-operator.labelsWith" -}}
{{- $root := index . 0 -}}
{{- $labels := include "qwen-operator.ownLabels" $root | fromYaml -}}
{{- merge $labels (default dict (index . 1)) $root.Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "qwen-operator.labels" -}}
{{- include "qwen-operator.labelsWith" (list . dict) -}}
{{- end -}}

{{- /* The annotations of an object, as the next lines of its metadata. Call it with
     (list $ annotations); those of the chart come first. */ -}}
{{- define "qwen-operator.annotations" -}}
{{- with merge (dict) (default dict (index . 1)) (index . 0).Values.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end -}}
{{- end -}}

{{- define "qwen-operator.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- /* A tag of digits only, such as `--set image.tag=1234567`, arrives as a number. */ -}}
{{- if not (kindIs "string" $tag) }}{{- $tag = int64 $tag -}}{{ end -}}
{{- printf "%s:%v" .Values.image.repository $tag -}}
{{- with .Values.image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{- define "qwen-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "qwen-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "qwen-operator.createsPriorityClass" -}}
{{- if and .Values.priorityClass.create (not .Values.watchNamespaces) -}}true{{- end -}}
{{- end -}}

{{- define "qwen-operator.priorityClassName" -}}
{{- if include "qwen-operator.createsPriorityClass" . -}}
{{- default (include "qwen-operator.fullname" .) .Values.priorityClass.name -}}
{{- else if not .Values.priorityClass.create -}}
{{- .Values.priorityClass.name -}}
{{- end -}}
{{- end -}}

{{- /* Returns "true" or nothing for Auto, true and false. Call it with (list $ value). */ -}}
{{- define "qwen-operator.monitoringWanted" -}}
{{- $root := index . 0 -}}
{{- $wanted := index . 1 | toString -}}
{{- if eq $wanted "Auto" -}}
{{- if $root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1" -}}true{{- end -}}
{{- else if eq $wanted "true" -}}true
{{- end -}}
{{- end -}}

{{- /* The labels of all ServiceMonitors and PrometheusRules, as the operator reads them. */ -}}
{{- define "qwen-operator.monitoringLabels" -}}
{{- $pairs := list -}}
{{- range $key, $value := .Values.monitoring.labels -}}
{{- $pairs = append $pairs (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- join "," $pairs -}}
{{- end -}}

{{- define "qwen-operator.metricsKeyFolder" -}}/etc/qwen-operator/metrics-key{{- end -}}

{{- define "qwen-operator.serverPullSecrets" -}}
{{- $names := list -}}
{{- range .Values.serverImages.pullSecrets -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- join "," $names -}}
{{- end -}}

{{- /* The environment variables that the chart sets. */ -}}
{{- define "qwen-operator.env" -}}
- name: QWEN_OPERATOR_SERVER_IMAGE_CPU
  value: {{ .Values.serverImages.cpu | quote }}
- name: QWEN_OPERATOR_SERVER_IMAGE_CUDA
  value: {{ .Values.serverImages.cuda | quote }}
- name: QWEN_OPERATOR_SERVER_PULL_SECRETS
  value: {{ include "qwen-operator.serverPullSecrets" . | quote }}
- name: QWEN_OPERATOR_POD_TEMPLATE_ALLOW
  value: {{ join "," .Values.podTemplate.allow | default "none" | quote }}
- name: QWEN_OPERATOR_WATCH_NAMESPACES
  value: {{ join "," .Values.watchNamespaces | quote }}
- name: QWEN_OPERATOR_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: QWEN_OPERATOR_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: QWEN_OPERATOR_LEADER_ELECTION
  value: {{ .Values.leaderElection.enabled | quote }}
- name: QWEN_OPERATOR_LEASE_NAME
  value: {{ include "qwen-operator.leaseName" . | quote }}
- name: QWEN_OPERATOR_METRICS_PORT
  value: "8080"
- name: QWEN_OPERATOR_LOG_LEVEL
  value: {{ .Values.log.level | quote }}
- name: QWEN_OPERATOR_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
- name: QWEN_OPERATOR_RESYNC_SECONDS
  value: {{ .Values.resyncSeconds | quote }}
- name: QWEN_OPERATOR_MONITORING_LABELS
  value: {{ include "qwen-operator.monitoringLabels" . | quote }}
- name: QWEN_OPERATOR_METRICS_KEY_FILE
  value: {{ ternary (printf "%s/keys" (include "qwen-operator.metricsKeyFolder" .)) "" (not (empty .Values.monitoring.metricsKey.secretName)) | quote }}
- name: QWEN_OPERATOR_RUNBOOK_BASE_URL
  value: {{ .Values.monitoring.prometheusRule.runbookBaseUrl | quote }}
{{- end -}}

{{- define "qwen-operator.leaseName" -}}
{{- default (include "qwen-operator.fullname" .) .Values.leaderElection.leaseName -}}
{{- end -}}

