{{/* An InferenceService. Takes root and track. */}}
{{- define "realfake.inferenceService" -}}
{{- $values := .root.Values }}
{{- $knative := eq $values.deploymentMode "Knative" -}}
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {{ .track.name }}
  namespace: {{ .root.Release.Namespace }}
  # KServe copies these to the pods, so nothing that a chart upgrade changes may be among them.
  labels:
    {{- include "realfake.identity" .root | nindent 4 }}
    {{- if $values.clusterLocal }}
    networking.kserve.io/visibility: cluster-local
    {{- end }}
    {{- with $values.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    serving.kserve.io/deploymentMode: {{ $values.deploymentMode }}
    {{- if not $knative }}
    serving.kserve.io/autoscalerClass: {{ $values.autoscaling.class | default "none" }}
    {{- else if eq (include "realfake.strategy" .root) "revision" }}
    serving.kserve.io/enable-tag-routing: "true"
    {{- end }}
    {{- with $values.model.storageSecret }}
    {{ $values.kserve.storageSecretAnnotation }}: {{ . }}
    {{- end }}
    {{- with $values.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  predictor:
    {{- include "realfake.podAnnotations" . | trim | nindent 4 }}
    {{- with $values.podLabels }}
    labels:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- include "realfake.scaling" . | trim | nindent 4 }}
    {{- include "realfake.podSpec" . | trim | nindent 4 }}
    containers:
      - {{ include "realfake.container" . | trim | nindent 8 | trim }}
    volumes:
      {{- include "realfake.volumes" . | trim | nindent 6 }}
  {{- if eq (include "realfake.strategy" .root) "native" }}
  canary:
    - {{ include "realfake.nativeCanary" .root | trim | nindent 6 | trim }}
  {{- end }}
{{- end }}

{{- define "realfake.podAnnotations" -}}
annotations:
  {{- if eq .root.Values.deploymentMode "Knative" }}
  serving.knative.dev/progress-deadline: {{ printf "%ds" (int .root.Values.probes.startupBudgetSeconds) }}
  {{- else }}
  checksum/config: {{ include "realfake.settingsFile" .track.settings | sha256sum }}
  {{- end }}
  {{- if .root.Values.metrics.podAnnotations }}
  prometheus.io/scrape: "true"
  prometheus.io/port: "8082"
  prometheus.io/path: /metrics
  {{- end }}
  {{- with .root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Knative refuses most of a pod's fields, and takes the grace period from the revision's timeout. */}}
{{- define "realfake.podSpec" -}}
{{- $values := .root.Values }}
{{- if ne $values.deploymentMode "Knative" }}
terminationGracePeriodSeconds: {{ include "realfake.graceSeconds" (dict "root" .root "settings" .track.settings) }}
deploymentStrategy:
  {{- $strategy := $values.deploymentStrategy }}
  {{- if eq ($strategy.type | default "") "Recreate" }}
  {{- /* Helm keeps the default's rollingUpdate below a type that is given, and Kubernetes refuses both together. */}}
  {{- $strategy = omit $strategy "rollingUpdate" }}
  {{- end }}
  {{- toYaml $strategy | nindent 2 }}
securityContext:
  {{- toYaml $values.podSecurityContext | nindent 2 }}
{{- end }}
{{- include "realfake.spread" (dict "root" .root "deployment" (printf "%s-predictor" .track.name)) }}
serviceAccountName: {{ include "realfake.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- range $field := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" }}
{{- with get $values $field }}
{{ dict $field . | toYaml }}
{{- end }}
{{- end }}
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Knative refuses spreading unless told otherwise, so only Standard mode has a default. Takes root and deployment. */}}
{{- define "realfake.spread" -}}
{{- $given := .root.Values.topologySpreadConstraints }}
{{- if and (kindIs "invalid" $given) (ne .root.Values.deploymentMode "Knative") }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        app: isvc.{{ .deployment }}
{{- else if $given }}
topologySpreadConstraints:
  {{- toYaml $given | nindent 2 }}
{{- end }}
{{- end }}

{{- define "realfake.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ toJson .root.Values.tmpSizeLimit }}
{{- if ne .root.Values.deploymentMode "Knative" }}
- name: config
  configMap:
    name: {{ include "realfake.configName" . }}
    defaultMode: 0444
{{- end }}
{{- with include "realfake.keysSecret" .root }}
- name: keys
  secret:
    secretName: {{ . }}
    # Any uid may run the container, and nothing else runs in it.
    defaultMode: 0444
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "realfake.configName" -}}
{{ include "realfake.name" .root }}{{ if .track.canary }}-canary{{ end }}-config
{{- end }}

{{/* KServe lays this over the stable predictor, lists replaced whole; an autoscaler here would be refused. */}}
{{- define "realfake.nativeCanary" -}}
{{- $track := include "realfake.track" (dict "root" . "canary" true) | fromJson }}
{{- $context := dict "root" . "track" $track }}
trafficPercent: {{ int .Values.canary.weight }}
predictor:
  name: canary
  minReplicas: {{ int $track.minReplicas }}
  {{- include "realfake.podAnnotations" $context | trim | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "realfake.graceSeconds" (dict "root" . "settings" $track.settings) }}
  {{- include "realfake.spread" (dict "root" . "deployment" (printf "%s-canary-predictor" $track.name)) | nindent 2 }}
  containers:
    - {{ include "realfake.container" $context | trim | nindent 6 | trim }}
  volumes:
    {{- include "realfake.volumes" $context | trim | nindent 4 }}
{{- end }}
