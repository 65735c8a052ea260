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
app.kubernetes.io/name: {{ include "qwen-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- /* Labels of the user come last and cannot replace the chart's own. Call it with
     (list $ moreLabels). */ -}}
{{- define "qwen-operator.labelsWith" -}}
{{- $root := index . 0 -}}
{{- $labels := include "qwen-operator.selectorLabels" $root | fromYaml -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" "qwen-vllm" -}}
{{- $_ := set $labels "app.kubernetes.io/version" $root.Chart.AppVersion -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") -}}
{{- merge $labels (index . 1) $root.Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "qwen-operator.labels" -}}
{{- include "qwen-operator.labelsWith" (list . dict) -}}
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
{{- default "default" .Values.serviceAccount.name -}}
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

{{- /* The environment variables that the chart sets. */ -}}
{{- define "qwen-operator.env" -}}
- name: QWEN_OPERATOR_SERVER_IMAGE_CPU
  value: {{ .Values.serverImages.cpu | quote }}
- name: QWEN_OPERATOR_SERVER_IMAGE_CUDA
  value: {{ .Values.serverImages.cuda | quote }}
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

{{- /* Rejects what the schema cannot: combinations that would install and then not work. */ -}}
{{- define "qwen-operator.validate" -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.leaderElection.enabled) -}}
{{- fail "replicas: more than one operator pod requires leaderElection.enabled=true" -}}
{{- end -}}
{{- $own := include "qwen-operator.env" . | fromYamlArray -}}
{{- range $own -}}
{{- $name := .name -}}
{{- range $.Values.extraEnv -}}
{{- if eq .name $name -}}
{{- fail (printf "extraEnv: the chart sets %s; change the value that it comes from instead" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
