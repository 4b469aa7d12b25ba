{{/* The one container. Takes root and track. KServe overwrites index 0, and defaults nothing in a native canary. */}}
{{- define "realfake.container" -}}
{{- $values := .root.Values }}
{{- $knative := eq $values.deploymentMode "Knative" }}
name: kserve-container
image: {{ .track.image | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
env:
  {{- include "realfake.env" . | trim | nindent 2 }}
ports:
  {{- include "realfake.ports" .root | trim | nindent 2 }}
resources:
  {{- include "realfake.resources" .root | nindent 2 }}
{{- include "realfake.probes" . }}
securityContext:
  {{- include "realfake.securityContext" .root | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- if not $knative }}
  - name: config
    mountPath: /etc/realfake/config
    readOnly: true
  {{- end }}
  {{- if include "realfake.keysSecret" .root }}
  # A directory, not a subPath: only directories follow a Secret that changes.
  - name: keys
    mountPath: /etc/realfake/keys
    readOnly: true
  {{- end }}
  {{- with $values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "realfake.env" -}}
- name: PROTOCOL
  value: v2
{{- if .track.storageUri }}
# KServe's webhook looks for this name and a literal value.
- name: STORAGE_URI
  value: {{ .track.storageUri | quote }}
{{- end }}
{{- if eq .root.Values.deploymentMode "Knative" }}
{{- range $group, $members := .track.settings }}
{{- range $key, $value := $members }}
{{- /* A variable cannot say null; without one the setting is unset. */}}
{{- if not (kindIs "invalid" $value) }}
- name: {{ printf "REALFAKE_%s__%s" $group $key | upper }}
  value: {{ include "realfake.envText" $value | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- else }}
- name: REALFAKE_CONFIG_FILE
  value: /etc/realfake/config/settings.yaml
{{- end }}
{{- with .root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The first port becomes port 80 of KServe's Service. Knative refuses a second one. */}}
{{- define "realfake.ports" -}}
{{- if eq .Values.deploymentMode "Knative" }}
{{- if eq .Values.knative.protocol "grpc" }}
- name: h2c
  containerPort: 8081
  protocol: TCP
{{- else }}
- name: http1
  containerPort: 8080
  protocol: TCP
{{- end }}
{{- else }}
- name: http1
  containerPort: 8080
  protocol: TCP
- name: h2c-grpc
  containerPort: 8081
  protocol: TCP
{{- if .Values.metrics.enabled }}
- name: metrics
  containerPort: 8082
  protocol: TCP
{{- end }}
{{- end }}
{{- end }}

{{- define "realfake.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if .Values.gpu.enabled }}
{{- range $kind := list "requests" "limits" }}
{{- $_ := set (get $resources $kind) $.Values.gpu.resource "1" }}
{{- end }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* Knative takes no context of the pod unless told otherwise, so there the container has the user. */}}
{{- define "realfake.securityContext" -}}
{{- $context := deepCopy .Values.securityContext }}
{{- if eq .Values.deploymentMode "Knative" }}
{{- $context = merge $context (pick .Values.podSecurityContext "runAsUser" "runAsGroup") }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{- define "realfake.probes" -}}
{{- $probes := .root.Values.probes }}
{{- $budget := int $probes.startupBudgetSeconds }}
{{- if ne .root.Values.deploymentMode "Knative" }}
startupProbe:
  {{- include "realfake.probe" (dict "root" .root "track" .track "path" "/v2/health/ready") | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: {{ divf $budget 5 | ceil | int }}
  successThreshold: 1
{{- end }}
readinessProbe:
  {{- include "realfake.probe" (dict "root" .root "track" .track "path" "/v2/health/ready") | nindent 2 }}
  periodSeconds: {{ int $probes.readiness.periodSeconds }}
  timeoutSeconds: {{ int $probes.readiness.timeoutSeconds }}
  failureThreshold: {{ int $probes.readiness.failureThreshold }}
  successThreshold: 1
livenessProbe:
  {{- include "realfake.probe" (dict "root" .root "track" .track "path" "/v2/health/live") | nindent 2 }}
  {{- if eq .root.Values.deploymentMode "Knative" }}
  # No startup probe on every Knative: until the port is open, this one must wait.
  initialDelaySeconds: 60
  {{- end }}
  periodSeconds: {{ int $probes.liveness.periodSeconds }}
  timeoutSeconds: {{ int $probes.liveness.timeoutSeconds }}
  failureThreshold: {{ int $probes.liveness.failureThreshold }}
  successThreshold: 1
{{- end }}

{{/* Health answers need no API key. The kubelet has no client certificate, so mTLS sends it to the health port. */}}
{{- define "realfake.probe" -}}
{{- $setting := dict "root" .root "settings" .track.settings }}
{{- $healthPort := include "realfake.setting" (merge (dict "group" "server" "key" "health_port") $setting) | mustFromJson }}
{{- $certificate := include "realfake.setting" (merge (dict "group" "tls" "key" "cert_file") $setting) | mustFromJson }}
{{- if and (eq .root.Values.deploymentMode "Knative") (eq .root.Values.knative.protocol "grpc") -}}
grpc:
  port: 8081
{{- else -}}
httpGet:
  path: {{ .path }}
  port: {{ $healthPort | default 8080 | int }}
  scheme: {{ ternary "HTTP" "HTTPS" (or (not $certificate) (not (not $healthPort))) }}
{{- end }}
{{- end }}

{{/* A setting as the environment has it: lists with commas, maps as name=value. */}}
{{- define "realfake.envText" -}}
{{- if kindIs "string" . -}}
{{ . }}
{{- else if kindIs "slice" . -}}
{{ join "," . }}
{{- else if kindIs "map" . -}}
{{- $pairs := list }}
{{- range $name, $value := . }}
{{- $pairs = append $pairs (printf "%s=%s" $name (kindIs "string" $value | ternary $value (toJson $value))) }}
{{- end }}
{{- join "," $pairs }}
{{- else -}}
{{ toJson . }}
{{- end }}
{{- end }}
