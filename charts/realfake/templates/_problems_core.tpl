{{/* Each of these answers a JSON list of problems. */}}

{{- define "realfake.problems.names" -}}
{{- $p := list }}
{{- $name := include "realfake.name" . }}
{{- $strategy := include "realfake.strategy" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- $p = append $p (printf "the InferenceService's name %q must be lower case letters, digits and '-', and start with a letter; set nameOverride" $name) }}
{{- end }}
{{- /* KServe builds <name>-predictor-<namespace>.<domain>, whose first part may have 63 characters, even with no ingress. */}}
{{- $room := 52 }}
{{- if has $strategy (list "route" "native") }}
{{- $room = 45 }}
{{- end }}
{{- $length := add (len $name) (len .Release.Namespace) }}
{{- if gt (int $length) $room }}
{{- $p = append $p (printf "name %q and namespace %q have %d characters together, and KServe's host name has room for %d; set a shorter nameOverride" $name .Release.Namespace (int $length) $room) }}
{{- end }}
{{- if gt (len (printf "isvc.%s%s-predictor" $name (ternary "-canary" "" (has $strategy (list "route" "native"))))) 63 }}
{{- $p = append $p (printf "name %q is too long for KServe's label app: isvc.%s-predictor (63 characters); set a shorter nameOverride" $name $name) }}
{{- end }}
{{- toJson $p }}
{{- end }}

{{- define "realfake.problems.serving" -}}
{{- $p := list }}
{{- $v := .Values }}
{{- if not $v.image.repository }}
{{- $p = append $p "image.repository is empty; set it to where you pushed the image" }}
{{- end }}
{{- if and $v.kserve.version (not (semverCompare ">=0.16.0-0" $v.kserve.version)) }}
{{- $p = append $p (printf "kserve.version %s does not know deploymentMode %s, whose name came with KServe 0.16; upgrade KServe" $v.kserve.version $v.deploymentMode) }}
{{- end }}
{{- range $value, $image := dict "image" $v.image "canary.image" $v.canary.image }}
{{- if regexMatch "(:[^/]*|@.*)$" $image.repository }}
{{- $p = append $p (printf "%s.repository %s has a tag or a digest in it, and another would be put behind; move it to %s.tag or %s.digest" $value $image.repository $value $value) }}
{{- end }}
{{- if and $image.tag $image.digest }}
{{- $p = append $p (printf "%s.tag and %s.digest are both set, and the digest would win; keep one, and make the other empty" $value $value) }}
{{- end }}
{{- end }}
{{- range $track := list (dict "place" "config" "config" $v.config) (dict "place" "canary.config" "config" $v.canary.config) }}
{{- $server := get $track.config "server" | default dict }}
{{- $model := get $track.config "model" | default dict }}
{{- $tls := get $track.config "tls" | default dict }}
{{- if has ($server.host | default "") (list "127.0.0.1" "localhost" "::1") }}
{{- $p = append $p "config.server.host keeps the ports inside the pod, where no probe or client reaches them; remove it" }}
{{- end }}
{{- if and $v.model.storageUri $model.path (not (hasPrefix "/mnt/models" $model.path)) }}
{{- $p = append $p "config.model.path is not below /mnt/models, where KServe puts model.storageUri; remove one of them" }}
{{- end }}
{{- if and $tls.client_ca_file (not $server.health_port) }}
{{- $p = append $p "config.tls.client_ca_file refuses the kubelet's probes, which have no certificate; set config.server.health_port" }}
{{- end }}
{{- if and $tls.cert_file (eq $v.deploymentMode "Knative") }}
{{- $p = append $p (printf "%s.tls.cert_file: Knative's proxy speaks plain HTTP to the predictor, so nothing would be served; remove %s.tls, and let Knative's gateway encrypt" $track.place $track.place) }}
{{- else if and $tls.cert_file $v.smokeTest.enabled }}
{{- $p = append $p "config.tls.cert_file: the helm test speaks plain HTTP and gRPC; set smokeTest.enabled: false" }}
{{- end }}
{{- end }}
{{- if and $v.canary.model.storageUri (not $v.model.storageUri) (get (get $v.config "model" | default dict) "path") }}
{{- $p = append $p "canary.model.storageUri is put at /mnt/models, and config.model.path points elsewhere; set canary.config.model.path" }}
{{- end }}
{{- if and $v.model.storageSecret (not $v.model.storageUri) (not $v.canary.model.storageUri) }}
{{- $p = append $p "model.storageSecret has nothing to unlock; set model.storageUri, or remove it" }}
{{- end }}
{{- if and (not $v.serviceAccount.create) (or $v.serviceAccount.annotations $v.serviceAccount.secrets) }}
{{- $p = append $p "serviceAccount.annotations and serviceAccount.secrets are for the account that the chart makes; put them on yours, or set serviceAccount.create: true" }}
{{- end }}
{{- if $v.podDisruptionBudget.enabled }}
{{- if and (kindIs "invalid" $v.podDisruptionBudget.minAvailable) (kindIs "invalid" $v.podDisruptionBudget.maxUnavailable) }}
{{- $p = append $p "podDisruptionBudget.minAvailable and maxUnavailable are both null, which lets no pod leave; set maxUnavailable: 1, or podDisruptionBudget.enabled: false" }}
{{- end }}
{{- with include "realfake.pdbBlocks" . }}
{{- $p = append $p (printf "podDisruptionBudget lets no pod leave, so nodes can never be drained; raise %s, or use maxUnavailable: 1" .) }}
{{- end }}
{{- end }}
{{- if and $v.dashboards.enabled (not $v.metrics.enabled) }}
{{- $p = append $p "dashboards.enabled needs metrics.enabled, or every panel is empty; set both, or neither" }}
{{- end }}
{{- if and $v.alerts.enabled (not $v.metrics.enabled) }}
{{- $p = append $p "alerts.enabled needs metrics.enabled, or every alert is blind; set both, or neither" }}
{{- end }}
{{- range $name := $v.alerts.disabled }}
{{- if not (has $name (include "realfake.alertNames" $ | fromJsonArray)) }}
{{- $p = append $p (printf "alerts.disabled: there is no alert %s; see manifests/runbooks" $name) }}
{{- end }}
{{- end }}
{{- if and $v.metrics.monitor.enabled (not $v.metrics.enabled) }}
{{- $p = append $p "metrics.monitor.enabled needs metrics.enabled; set both, or neither" }}
{{- end }}
{{- toJson $p }}
{{- end }}

{{/* Every alert in files/alerts, as a JSON list. */}}
{{- define "realfake.alertNames" -}}
{{- $names := list }}
{{- range $path, $_ := .Files.Glob "files/alerts/*.yaml" }}
{{- range $group := ($.Files.Get $path | fromYaml).groups }}
{{- range $rule := $group.rules }}
{{- if $rule.alert }}
{{- $names = append $names $rule.alert }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $names }}
{{- end }}

{{/* What keeps every replica from being evicted at the lowest scale, if anything does; each track has a budget of its own. */}}
{{- define "realfake.pdbBlocks" -}}
{{- $pdb := .Values.podDisruptionBudget }}
{{- $counts := dict "autoscaling.minReplicas" (int .Values.autoscaling.minReplicas) }}
{{- if eq (include "realfake.strategy" .) "route" }}
{{- $_ := set $counts "canary.minReplicas" (int .Values.canary.minReplicas) }}
{{- end }}
{{- $low := list }}
{{- if kindIs "invalid" $pdb.minAvailable }}
{{- if has (toString $pdb.maxUnavailable) (list "0" "0%") }}
{{- $low = list "podDisruptionBudget.maxUnavailable" }}
{{- end }}
{{- else }}
{{- range $value, $count := $counts }}
{{- $kept := $pdb.minAvailable | toString }}
{{- if hasSuffix "%" $kept }}
{{- /* Kubernetes rounds a percentage of pods up. */}}
{{- $kept = mulf (trimSuffix "%" $kept | float64) $count | ceil | printf "%.0f" | float64 }}
{{- $kept = divf $kept 100 | ceil }}
{{- end }}
{{- if and (gt $count 0) (ge (float64 $kept) (float64 $count)) }}
{{- $low = append $low $value }}
{{- end }}
{{- end }}
{{- end }}
{{- join " and " $low }}
{{- end }}

{{- define "realfake.problems.keys" -}}
{{- $p := list }}
{{- $auth := .Values.auth }}
{{- $given := or $auth.existingSecret $auth.keys }}
{{- if and (eq $auth.mode "api_key") (not $given) }}
{{- $p = append $p "no API keys: set auth.existingSecret to a Secret of yours, or auth.keys to the output of `python -m predictor keys hash`; auth.mode: none answers everybody" }}
{{- end }}
{{- if and $auth.existingSecret $auth.keys }}
{{- $p = append $p "auth.existingSecret and auth.keys are both set; keep one" }}
{{- end }}
{{- if and (eq $auth.mode "none") $given }}
{{- $p = append $p "auth.mode is none, so the keys would be ignored; remove them, or set auth.mode to api_key" }}
{{- end }}
{{- $test := .Values.smokeTest.apiKey }}
{{- if ne (empty $test.existingSecret) (empty $test.key) }}
{{- $p = append $p "smokeTest.apiKey needs both existingSecret and key, the entry that holds an API key in clear" }}
{{- end }}
{{- toJson $p }}
{{- end }}

{{- define "realfake.problems.metadata" -}}
{{- $p := list }}
{{- $v := .Values }}
{{- range $place, $labels := dict "labels" $v.labels "podLabels" $v.podLabels }}
{{- range $label := list "helm.sh/chart" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" }}
{{- if hasKey $labels $label }}
{{- $p = append $p (printf "%s: %s would replace every pod with each chart upgrade, because KServe copies it to them; remove it" $place $label) }}
{{- end }}
{{- end }}
{{- range $label := list "serving.kserve.io/inferenceservice" "component" "app" "app.kubernetes.io/name" "app.kubernetes.io/instance" "networking.kserve.io/visibility" }}
{{- if hasKey $labels $label }}
{{- $p = append $p (printf "%s: %s is set by KServe or this chart (clusterLocal sets the visibility); remove it" $place $label) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $annotation := list "serving.kserve.io/deploymentMode" "serving.kserve.io/autoscalerClass" $v.kserve.storageSecretAnnotation }}
{{- if hasKey $v.annotations $annotation }}
{{- $p = append $p (printf "annotations: %s has a value of its own (deploymentMode, autoscaling.class, model.storageSecret); remove it" $annotation) }}
{{- end }}
{{- end }}
{{- $written := list (ternary "serving.knative.dev/progress-deadline" "checksum/config" (eq $v.deploymentMode "Knative")) }}
{{- if $v.metrics.podAnnotations }}
{{- $written = concat $written (list "prometheus.io/scrape" "prometheus.io/port" "prometheus.io/path") }}
{{- end }}
{{- range $annotation := $written }}
{{- if hasKey $v.podAnnotations $annotation }}
{{- $p = append $p (printf "podAnnotations: %s is written by the chart (metrics.podAnnotations, probes.startupBudgetSeconds), and a key can be given once; remove it" $annotation) }}
{{- end }}
{{- end }}
{{- if and (ne $v.deploymentMode "Knative") (or (hasKey $v.annotations "serving.kserve.io/enable-prometheus-scraping") (hasKey $v.podAnnotations "serving.kserve.io/enable-prometheus-scraping")) }}
{{- $p = append $p "annotations: serving.kserve.io/enable-prometheus-scraping points Prometheus at a proxy that Standard mode does not have; use metrics.monitor or metrics.podAnnotations" }}
{{- end }}
{{- toJson $p }}
{{- end }}

{{- define "realfake.problems.resources" -}}
{{- $p := list }}
{{- $v := .Values }}
{{- range $kind := list "requests" "limits" }}
{{- $given := get $v.resources $kind | default dict }}
{{- range $resource := list "cpu" "memory" }}
{{- if not (get $given $resource) }}
{{- $p = append $p (printf "resources.%s.%s is missing, and KServe would make it %s; set it" $kind $resource (ternary "1" "2Gi" (eq $resource "cpu"))) }}
{{- end }}
{{- end }}
{{- range $resource, $_ := $given }}
{{- if or (contains "gpu" $resource) (eq $resource $v.gpu.resource) }}
{{- $p = append $p (printf "resources.%s: %s; set gpu.enabled and gpu.resource instead, which write request and limit alike" $kind $resource) }}
{{- end }}
{{- end }}
{{- end }}
{{- $device := get (get $v.config "model" | default dict) "device" | default "" }}
{{- $canaryDevice := get (get $v.canary.config "model" | default dict) "device" | default "" }}
{{- range $device := list $device $canaryDevice }}
{{- if and (hasPrefix "cuda" $device) (not $v.gpu.enabled) }}
{{- $p = append $p (printf "model.device %s needs a GPU in the pod's limits; set gpu.enabled" $device) }}
{{- end }}
{{- if and (eq $device "cpu") $v.gpu.enabled }}
{{- $p = append $p "model.device cpu leaves the GPU of gpu.enabled idle; remove one of them" }}
{{- end }}
{{- if and $v.gpu.enabled (regexMatch "^cuda:[1-9]" $device) }}
{{- $p = append $p (printf "model.device %s: a pod has one GPU, cuda:0; remove it, and scale by replicas" $device) }}
{{- end }}
{{- end }}
{{- toJson $p }}
{{- end }}

{{- define "realfake.problems.extras" -}}
{{- $p := list }}
{{- $known := .Files.Get "files/settings.json" | fromJson }}
{{- $settings := list }}
{{- range $group, $members := $known }}
{{- range $key, $_ := $members }}
{{- $settings = append $settings (printf "REALFAKE_%s__%s" $group $key | upper) }}
{{- end }}
{{- end }}
{{- range $variable := .Values.extraEnv }}
{{- if eq $variable.name "PYTHONPATH" }}
{{- $p = append $p "extraEnv: KServe refuses PYTHONPATH; put modules into the image" }}
{{- else if has $variable.name (list "STORAGE_URI" "PROTOCOL" "REALFAKE_CONFIG_FILE" "REALFAKE_AUTH__MODE" "REALFAKE_AUTH__KEYS_DIR" "REALFAKE_SERVER__HTTP_PORT" "REALFAKE_SERVER__GRPC_PORT" "REALFAKE_SERVER__METRICS_PORT") }}
{{- $p = append $p (printf "extraEnv: %s is set by the chart; remove it" $variable.name) }}
{{- else if and (hasPrefix "REALFAKE_" $variable.name) (not (has $variable.name $settings)) }}
{{- $p = append $p (printf "extraEnv: %s is no setting, and the predictor would not start; see docs/settings.md" $variable.name) }}
{{- end }}
{{- end }}
{{- range $object := .Values.extraObjects }}
{{- $labels := $object.metadata.labels | default dict }}
{{- if and (has $object.kind (list "Service" "Deployment")) (hasKey $labels "serving.kserve.io/inferenceservice") (eq (get $labels "component" | default "") "predictor") }}
{{- $p = append $p (printf "extraObjects: KServe deletes a %s that has both labels serving.kserve.io/inferenceservice and component: predictor; remove one label" $object.kind) }}
{{- end }}
{{- if and (eq $object.kind "HorizontalPodAutoscaler") (has $object.metadata.name (list (printf "%s-predictor" (include "realfake.name" $)) (printf "%s-canary-predictor" (include "realfake.name" $)))) }}
{{- $p = append $p (printf "extraObjects: KServe overwrites a HorizontalPodAutoscaler named %s; give it another name" $object.metadata.name) }}
{{- end }}
{{- end }}
{{- toJson $p }}
{{- end }}
