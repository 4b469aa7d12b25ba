{{/* Replicas and what changes them. Takes root and track. Zeros are written: KServe would fill a gap with 1. */}}
{{- define "realfake.scaling" -}}
{{- $scaling := .root.Values.autoscaling }}
minReplicas: {{ int .track.minReplicas }}
maxReplicas: {{ int .track.maxReplicas }}
{{- if eq .root.Values.deploymentMode "Knative" }}
scaleMetric: {{ $scaling.knative.metric }}
scaleTarget: {{ int $scaling.knative.target }}
containerConcurrency: {{ int $scaling.knative.containerConcurrency }}
timeout: {{ include "realfake.timeoutSeconds" . }}
{{- if eq (include "realfake.strategy" .root) "revision" }}
canaryTrafficPercent: {{ int .root.Values.canary.weight }}
{{- end }}
{{- else if eq $scaling.class "hpa" }}
autoScaling:
  metrics:
    {{- range $resource := list "cpu" "memory" }}
    {{- with get $scaling.hpa $resource }}
    - type: Resource
      resource:
        name: {{ $resource }}
        target:
          type: Utilization
          averageUtilization: {{ int . }}
    {{- end }}
    {{- end }}
{{- else if eq $scaling.class "keda" }}
autoScaling:
  metrics:
    - type: External
      external:
        metric:
          backend: prometheus
          serverAddress: {{ $scaling.keda.serverAddress }}
          {{- with $scaling.keda.namespace }}
          namespace: {{ . | quote }}
          {{- end }}
          query: {{ include "realfake.kedaQuery" . | quote }}
        target:
          type: Value
          value: {{ toJson $scaling.keda.target | quote }}
        {{- with $scaling.keda.authentication }}
        authenticationRef:
          authModes: {{ $scaling.keda.authModes | quote }}
          authenticationRef:
            name: {{ . }}
        {{- end }}
{{- end }}
{{- end }}

{{/* KServe gives KEDA no metric type, and KEDA then divides by the replicas: every query is a total. */}}
{{- define "realfake.kedaQuery" -}}
{{- $keda := .root.Values.autoscaling.keda }}
{{- $pods := printf `namespace="%s",pod=~"%s-predictor-.*"` .root.Release.Namespace .track.name }}
{{- if $keda.query -}}
{{ $keda.query }}
{{- else if eq $keda.trigger "queue_wait" -}}
{{- /* `> 0` drops the NaN of a quiet service, which KEDA takes for a failure. */ -}}
(histogram_quantile(0.9, sum by (le) (rate(inference_queue_wait_seconds_bucket{ {{- $pods -}} }[2m]))) > 0) * count(inference_in_flight{ {{- $pods -}} }) or vector(0)
{{- else -}}
sum(inference_in_flight{ {{- $pods -}} }) or vector(0)
{{- end }}
{{- end }}

{{/* A revision's timeout is its grace period too, so it covers the longer of a request and the drain. */}}
{{- define "realfake.timeoutSeconds" -}}
{{- $deadline := include "realfake.setting" (dict "root" .root "settings" .track.settings "group" "limits" "key" "max_deadline_s") | float64 }}
{{- $grace := include "realfake.graceSeconds" (dict "root" .root "settings" .track.settings) }}
{{- max (ceil $deadline) $grace }}
{{- end }}
