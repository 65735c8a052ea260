{{- /* The name of an admission policy, which is cluster-scoped. Call it with (list $ suffix). */ -}}
{{- define "qwen-operator.policyName" -}}
{{- printf "%s-%s" (include "qwen-operator.roleName" (index . 0) | trunc 52 | trimSuffix "-") (index . 1) -}}
{{- end -}}

{{- /* Refuses to write objects of another installation, before anything is changed: Helm's own
     message names no remedy. Helm reads every object that it writes, so this needs no more rights.
     `lookup` finds nothing where Helm does not ask the cluster, as in `helm template`. */ -}}
{{- define "qwen-operator.guard" -}}
{{- if not .Values.adopt -}}
{{- $objects := list (list "apps/v1" "Deployment" .Release.Namespace (include "qwen-operator.fullname" .)) -}}
{{- if include "qwen-operator.createsPriorityClass" . -}}
{{- $class := include "qwen-operator.priorityClassName" . -}}
{{- $objects = prepend $objects (list "scheduling.k8s.io/v1" "PriorityClass" "" $class) -}}
{{- end -}}
{{- if .Values.crds.enabled -}}
{{- $crd := "qwenservices.qwen-vllm.io" -}}
{{- $objects = prepend $objects (list "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" $crd) -}}
{{- end -}}
{{- range $object := $objects -}}
{{- $found := lookup (index $object 0) (index $object 1) (index $object 2) (index $object 3) -}}
{{- if $found -}}
{{- include "qwen-operator.guardObject" (list $ $found) -}}
{{- else if and $.Release.IsUpgrade (eq (index $object 1) "Deployment") -}}
{{- include "qwen-operator.guardRenamed" $ -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Refuses to serve namespaces that another installation of the chart serves. One with 0 replicas does
     not count. Helm shows the name of this template to a user who may not list Deployments. */ -}}
{{- define "qwen-operator.guardNamespaces (checkOthers=false skips this check)" -}}
{{- if and .Values.checkOthers (gt (int .Values.replicas) 0) -}}
{{- range $found := (lookup "apps/v1" "Deployment" "" "").items -}}
{{- $labels := default dict $found.metadata.labels -}}
{{- $annotations := default dict $found.metadata.annotations -}}
{{- $here := eq $found.metadata.namespace $.Release.Namespace -}}
{{- $ours := and $here (eq $found.metadata.name (include "qwen-operator.fullname" $)) -}}
{{- $release := get $annotations "meta.helm.sh/release-name" -}}
{{- if and (eq $release $.Release.Name) (eq (get $annotations "meta.helm.sh/release-namespace") $.Release.Namespace) -}}
{{- $ours = true -}}
{{- end -}}
{{- $operator := eq (get $labels "app.kubernetes.io/component") "operator" -}}
{{- $operator = and $operator (eq (get $labels "app.kubernetes.io/part-of") "qwen-vllm") -}}
{{- if and $operator (not $ours) (gt (int $found.spec.replicas) 0) -}}
{{- include "qwen-operator.guardOther" (list $ $found) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Fails if an operator that exists serves a namespace of this release. Call it with
     (list $ deployment). */ -}}
{{- define "qwen-operator.guardOther" -}}
{{- $ours := (index . 0).Values.watchNamespaces -}}
{{- $found := index . 1 -}}
{{- $theirs := list -}}
{{- range (first $found.spec.template.spec.containers).env -}}
{{- if and (eq .name "QWEN_OPERATOR_WATCH_NAMESPACES") .value -}}
{{- $theirs = splitList "," .value -}}
{{- end -}}
{{- end -}}
{{- $both := list -}}
{{- range $ours -}}
{{- if has . $theirs -}}
{{- $both = append $both . -}}
{{- end -}}
{{- end -}}
{{- if or $both (not $ours) (not $theirs) -}}
{{- $annotations := default dict $found.metadata.annotations -}}
{{- $owner := printf "the operator %s in the namespace %s" $found.metadata.name $found.metadata.namespace -}}
{{- with get $annotations "meta.helm.sh/release-name" -}}
{{- $owner = printf "the Helm release %s in the namespace %s" . (get $annotations "meta.helm.sh/release-namespace") -}}
{{- end -}}
{{- $serves := printf "%s serves %s already" $owner (join ", " (default (default (list "every namespace") $theirs) $both)) -}}
{{- $wants := ternary "this release would serve them, too" (printf "this release would serve %s" (join ", " (default (list "every namespace") $ours))) (not (empty $both)) -}}
{{- $remedy := "Leave them out of watchNamespaces" -}}
{{- if not $theirs -}}
{{- $remedy = "Give that one a list of other namespaces first (its watchNamespaces)" -}}
{{- else if not $ours -}}
{{- $remedy = "Give this release a list of other namespaces (--set 'watchNamespaces={NAMESPACE}')" -}}
{{- end -}}
{{- fail (printf "watchNamespaces: %s, and %s. Two operators must never serve the same namespace. Nothing was changed. %s, or uninstall that one or set its replicas to 0." $serves $wants $remedy) -}}
{{- end -}}
{{- end -}}

{{- /* Noted on the Deployment while Helm would delete the CRD together with the release. */ -}}
{{- define "qwen-operator.deletesDefinition" -}}qwen-vllm.io/deletes-definition{{- end -}}

{{- /* Refuses to give up a CRD that is not kept: Helm would delete it at once, and with it every
     QwenService. A user who does not manage the CRD may not read it, so this looks at the
     Deployment. */ -}}
{{- define "qwen-operator.guardDefinition" -}}
{{- if not .Values.crds.enabled -}}
{{- $found := lookup "apps/v1" "Deployment" .Release.Namespace (include "qwen-operator.fullname" .) -}}
{{- if $found -}}
{{- if hasKey (default dict $found.metadata.annotations) (include "qwen-operator.deletesDefinition" .) -}}
{{- fail "crds.enabled: crds.keep is false in this release, so Helm would delete the QwenService CRD, and with it every QwenService. Nothing was changed. Upgrade with --set crds.keep=true first, and then with --set crds.enabled=false." -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Fails if an object that exists is not of this release, or cannot become what is asked for. Call
     it with (list $ object). */ -}}
{{- define "qwen-operator.guardObject" -}}
{{- $root := index . 0 -}}
{{- $found := index . 1 -}}
{{- $annotations := default dict $found.metadata.annotations -}}
{{- $release := get $annotations "meta.helm.sh/release-name" -}}
{{- $namespace := get $annotations "meta.helm.sh/release-namespace" -}}
{{- if or (ne $release $root.Release.Name) (ne $namespace $root.Release.Namespace) -}}
{{- $owner := "no Helm release; kubectl or another tool applied it" -}}
{{- if $release -}}
{{- $owner = printf "the Helm release %s in the namespace %s" $release $namespace -}}
{{- end -}}
{{- $what := printf "%s %s exists and belongs to %s. Nothing was changed." $found.kind $found.metadata.name $owner -}}
{{- /* Helm 4 applies on the server, where kubectl owns the fields of what it applied. */ -}}
{{- $force := ternary " --force-conflicts" "" (semverCompare ">=4-0" $root.Capabilities.HelmVersion.Version) -}}
{{- $adopt := printf "If no other operator runs, take it over: run this command again with --take-ownership --set adopt=true%s." $force -}}
{{- $other := "" -}}
{{- if eq $found.kind "CustomResourceDefinition" -}}
{{- $other = " If another operator serves other namespaces, leave the CRD to it: --set crds.enabled=false, with watchNamespaces." -}}
{{- end -}}
{{- fail (printf "%s %s%s See docs/operations.md, Take over an installation." $what $adopt $other) -}}
{{- end -}}
{{- if and (eq $found.kind "CustomResourceDefinition") $root.Values.crds.protect -}}
{{- $version := "qwen-vllm.io/definition-version" -}}
{{- $ours := get ($root.Files.Get "files/crd.yaml" | fromYaml).metadata.annotations $version -}}
{{- if gt (int64 (get $annotations $version)) (int64 $ours) -}}
{{- fail "crds.enabled: the QwenService CRD of the cluster is newer than that of this chart, and stored QwenServices would lose their new fields. Nothing was changed. An older operator works with the newer CRD: run this command again with --set crds.enabled=false." -}}
{{- end -}}
{{- end -}}
{{- if and (eq $found.kind "PriorityClass") (ne (int64 $found.value) (int64 $root.Values.priorityClass.value)) -}}
{{- fail (printf "priorityClass.value: Kubernetes does not allow changing %d of PriorityClass %s. Nothing was changed. Set another priorityClass.name with it." (int64 $found.value) $found.metadata.name) -}}
{{- end -}}
{{- if eq $found.kind "Deployment" -}}
{{- $labels := include "qwen-operator.selectorLabels" $root | fromYaml -}}
{{- if ne (toJson $found.spec.selector.matchLabels) (toJson $labels) -}}
{{- fail (printf "nameOverride: Kubernetes does not allow changing the selector of Deployment %s. Nothing was changed. Change fullnameOverride with it." $found.metadata.name) -}}
{{- end -}}
{{- include "qwen-operator.guardElection" (list $root $found) -}}
{{- end -}}
{{- end -}}

{{- /* The Lease by which the pods of a Deployment elect; empty if they do not. */ -}}
{{- define "qwen-operator.leaseOf" -}}
{{- $before := dict -}}
{{- range (first .spec.template.spec.containers).env -}}
{{- $_ := set $before .name (default "" .value) -}}
{{- end -}}
{{- ternary (get $before "QWEN_OPERATOR_LEASE_NAME") "" (eq (get $before "QWEN_OPERATOR_LEADER_ELECTION") "true") -}}
{{- end -}}

{{- /* Fails if the release's Deployment gets another name and its old pods would act beside the new
     ones, until Helm deletes them at the end of the upgrade. */ -}}
{{- define "qwen-operator.guardRenamed" -}}
{{- $elects := .Values.leaderElection.enabled -}}
{{- range $found := (lookup "apps/v1" "Deployment" .Release.Namespace "").items -}}
{{- $ours := eq (get (default dict $found.metadata.annotations) "meta.helm.sh/release-name") $.Release.Name -}}
{{- $operator := eq (get (default dict $found.metadata.labels) "app.kubernetes.io/component") "operator" -}}
{{- if and $ours $operator (gt (int $found.spec.replicas) 0) (gt (int $.Values.replicas) 0) -}}
{{- $lease := include "qwen-operator.leaseOf" $found -}}
{{- if not (and $lease $elects (eq $lease (include "qwen-operator.leaseName" $))) -}}
{{- $remedy := printf "Scale Deployment %s to 0 first, and run this command again." $found.metadata.name -}}
{{- if and $lease $elects -}}
{{- $remedy = printf "Run this command again with --set leaderElection.leaseName=%s, and keep that value." $lease -}}
{{- end -}}
{{- fail (printf "fullnameOverride: the pods of Deployment %s do not elect by the Lease %s, so old and new pods would act at the same time. Nothing was changed. %s" $found.metadata.name (include "qwen-operator.leaseName" $) $remedy) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Fails if pods of the old and the new Deployment would act at the same time, because they do not
     elect by the same Lease. Call it with (list $ deployment). */ -}}
{{- define "qwen-operator.guardElection" -}}
{{- $root := index . 0 -}}
{{- $found := index . 1 -}}
{{- $lease := include "qwen-operator.leaseOf" $found -}}
{{- $together := and (gt (int $found.spec.replicas) 0) (gt (int $root.Values.replicas) 0) -}}
{{- $elects := and $root.Values.leaderElection.enabled (ne (toString $root.Values.strategy.type) "Recreate") -}}
{{- if and $together $elects (ne $lease (include "qwen-operator.leaseName" $root)) -}}
{{- fail (printf "leaderElection: the pods of Deployment %s do not elect by the Lease %s, so old and new pods would act at the same time. Nothing was changed. Run this command again with --set strategy.type=Recreate, and later ones without it." $found.metadata.name (include "qwen-operator.leaseName" $root)) -}}
{{- end -}}
{{- end -}}
