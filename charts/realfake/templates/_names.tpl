{{- define "realfake.name" -}}
{{ .Values.nameOverride | default .Release.Name }}
{{- end }}

{{/* Labels of the chart's own objects. The InferenceService has its own below: KServe copies those to the pods. */}}
{{- define "realfake.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "realfake.identity" . }}
{{- end }}

{{- define "realfake.identity" -}}
app.kubernetes.io/name: realfake
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "realfake.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "realfake.labels" .root | nindent 2 }}
{{- end }}

{{- define "realfake.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "realfake.name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "realfake.keysSecret" -}}
{{- if eq .Values.auth.mode "api_key" -}}
{{ .Values.auth.existingSecret | default (printf "%s-keys" (include "realfake.name" .)) }}
{{- end }}
{{- end }}

{{- define "realfake.strategy" -}}
{{- if .Values.canary.enabled -}}
{{ .Values.canary.strategy | default (ternary "revision" "route" (eq .Values.deploymentMode "Knative")) }}
{{- end }}
{{- end }}

{{/* The InferenceServices of this release, as a JSON list of names. */}}
{{- define "realfake.services" -}}
{{- $names := list (include "realfake.name" .) }}
{{- if eq (include "realfake.strategy" .) "route" }}
{{- $names = append $names (printf "%s-canary" (include "realfake.name" .)) }}
{{- end }}
{{- toJson $names }}
{{- end }}

{{/* One selector for the pods of every track: policies are the same for all of them. */}}
{{- define "realfake.podSelector" -}}
matchLabels:
  component: predictor
matchExpressions:
  - key: serving.kserve.io/inferenceservice
    operator: In
    values: {{ include "realfake.services" . }}
{{- end }}
