{{- define "realfake.problems.scaling" -}}
{{- $p := list }}
{{- $v := .Values }}
{{- $scaling := $v.autoscaling }}
{{- $scales := or (eq $v.deploymentMode "Knative") (has $scaling.class (list "hpa" "keda")) }}
{{- if and $scales (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) }}
{{- $p = append $p "autoscaling.minReplicas is above maxReplicas; raise the second" }}
{{- end }}
{{- if and (eq $v.deploymentMode "Standard") (eq (int $scaling.minReplicas) 0) (ne $scaling.class "external") }}
{{- $p = append $p "autoscaling.minReplicas: 0 in Standard mode stops the service, and nothing holds requests until it is back; use Knative to scale to zero" }}
{{- end }}
{{- if eq $v.deploymentMode "Standard" }}
{{- if and (eq $scaling.class "hpa") (not $scaling.hpa.cpu) (not $scaling.hpa.memory) }}
{{- $p = append $p "autoscaling.class hpa has nothing to scale on; set autoscaling.hpa.cpu or memory" }}
{{- end }}
{{- if eq $scaling.class "keda" }}
{{- if not $scaling.keda.serverAddress }}
{{- $p = append $p "autoscaling.keda.serverAddress is empty; set the URL of Prometheus" }}
{{- end }}
{{- if ne (empty $scaling.keda.authModes) (empty $scaling.keda.authentication) }}
{{- $p = append $p "autoscaling.keda needs both authModes and authentication, the name of a TriggerAuthentication; set both, or neither" }}
{{- end }}
{{- if and (not $scaling.keda.query) (not $v.metrics.enabled) }}
{{- $p = append $p "autoscaling.keda scales on the predictor's metrics; set metrics.enabled" }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $p }}
{{- end }}

{{- define "realfake.problems.knative" -}}
{{- $p := list }}
{{- $v := .Values }}
{{- if eq $v.deploymentMode "Knative" }}
{{- if $v.autoscaling.class }}
{{- $p = append $p (printf "autoscaling.class %s: Knative scales by itself; leave it empty and set autoscaling.knative" $v.autoscaling.class) }}
{{- end }}
{{- if $v.route.enabled }}
{{- $p = append $p "route.enabled: Knative has its own routes; use canary.strategy revision" }}
{{- end }}
{{- if and $v.metrics.enabled $v.metrics.podAnnotations }}
{{- $p = append $p "metrics.podAnnotations: Knative declares one port and sets its own annotations; use metrics.monitor" }}
{{- end }}
{{- $stable := include "realfake.track" (dict "root" . "canary" $v.canary.enabled) | fromJson }}
{{- $timeout := include "realfake.timeoutSeconds" (dict "root" . "track" $stable) | int }}
{{- if gt $timeout 600 }}
{{- $p = append $p (printf "config.limits.max_deadline_s and the drain settings need a revision timeout of %d seconds, and Knative allows 600; lower them" $timeout) }}
{{- end }}
{{- end }}
{{- toJson $p }}
{{- end }}

{{- define "realfake.problems.canary" -}}
{{- $p := list }}
{{- $v := .Values }}
{{- $c := $v.canary }}
{{- if $c.enabled }}
{{- $strategy := include "realfake.strategy" . }}
{{- if not (or $c.image.repository $c.image.tag $c.image.digest $c.model.storageUri $c.config) }}
{{- $p = append $p "canary.enabled, and nothing differs from stable; set canary.image, canary.model or canary.config" }}
{{- end }}
{{- if and (eq $v.deploymentMode "Knative") (ne $strategy "revision") }}
{{- $p = append $p (printf "canary.strategy %s works in Standard mode only; use revision with Knative" $strategy) }}
{{- end }}
{{- if and (eq $v.deploymentMode "Standard") (eq $strategy "revision") }}
{{- $p = append $p "canary.strategy revision sets canaryTrafficPercent, which Standard mode ignores: every request would reach the canary; use route" }}
{{- end }}
{{- if and (eq $strategy "route") (eq $v.deploymentMode "Standard") (not $v.route.enabled) }}
{{- $p = append $p "canary.strategy route splits the chart's own route; set route.enabled, route.parentRefs and route.hostnames" }}
{{- end }}
{{- if and (eq $strategy "route") (eq (int $c.minReplicas) 0) (gt (int $c.weight) 0) }}
{{- $p = append $p "canary.minReplicas is 0, so its share of requests would fail; set at least 1, or canary.weight 0" }}
{{- end }}
{{- if and (eq $strategy "route") (has $v.autoscaling.class (list "hpa" "keda")) (gt (int $c.minReplicas) (int $c.maxReplicas)) }}
{{- $p = append $p "canary.minReplicas is above canary.maxReplicas; raise the second" }}
{{- end }}
{{- if eq $strategy "native" }}
{{- $p = concat $p (include "realfake.problems.native" . | fromJsonArray) }}
{{- end }}
{{- end }}
{{- toJson $p }}
{{- end }}

{{- define "realfake.problems.native" -}}
{{- $p := list }}
{{- $v := .Values }}
{{- if not $v.kserve.version }}
{{- $p = append $p "canary.strategy native needs KServe 0.21; set kserve.version to what the cluster runs" }}
{{- else if not (semverCompare ">=0.21.0-0" $v.kserve.version) }}
{{- $p = append $p (printf "canary.strategy native: KServe %s would deploy the canary and send it nothing; use route, or upgrade KServe to 0.21" $v.kserve.version) }}
{{- end }}
{{- if not $v.kserve.gatewayApi }}
{{- $p = append $p "canary.strategy native splits KServe's HTTPRoutes; enable the Gateway API in KServe and set kserve.gatewayApi, or use route" }}
{{- end }}
{{- if $v.route.enabled }}
{{- $p = append $p "canary.strategy native: route.enabled would go past the split, to stable only; use strategy route, or disable the route" }}
{{- end }}
{{- if not $v.model.storageUri }}
{{- $p = append $p "canary.strategy native: KServe wants a model in the stable predictor, and one in the image does not count; set model.storageUri, or use route" }}
{{- end }}
{{- if eq $v.autoscaling.class "keda" }}
{{- $p = append $p "canary.strategy native breaks with autoscaling.class keda: the canary's scaler has no trigger, and KServe stops there; use route" }}
{{- end }}
{{- if gt (int $v.canary.minReplicas) (int $v.autoscaling.minReplicas) }}
{{- $p = append $p "canary.strategy native: canary.minReplicas must not exceed autoscaling.minReplicas; lower the first" }}
{{- end }}
{{- toJson $p }}
{{- end }}

{{- define "realfake.problems.route" -}}
{{- $p := list }}
{{- $route := .Values.route }}
{{- if $route.enabled }}
{{- if or (not $route.parentRefs) (not $route.hostnames) }}
{{- $p = append $p "route.enabled needs route.parentRefs, the gateway, and route.hostnames" }}
{{- end }}
{{- if $route.grpc.enabled }}
{{- if not $route.grpc.hostnames }}
{{- $p = append $p "route.grpc.enabled needs route.grpc.hostnames" }}
{{- end }}
{{- range $host := $route.grpc.hostnames }}
{{- if and (has $host $route.hostnames) (not $route.grpc.parentRefs) }}
{{- $p = append $p (printf "route.grpc.hostnames: %s is the HTTPRoute's too, and a gateway accepts one kind of route for a host on one listener; give gRPC a host or parentRefs of its own" $host) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $p }}
{{- end }}
