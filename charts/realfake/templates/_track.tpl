{{/*
What one track (stable or canary) serves, as JSON: name, image, storageUri, settings, minReplicas, maxReplicas.
Takes root and canary. Every override of the canary is applied here and nowhere else.
*/}}
{{- define "realfake.track" -}}
{{- $values := .root.Values }}
{{- $canary := $values.canary }}
{{- $name := include "realfake.name" .root }}
{{- $image := pick $values.image "repository" "tag" "digest" }}
{{- $storageUri := $values.model.storageUri }}
{{- $digest := $values.model.digest }}
{{- $overrides := dict }}
{{- $replicas := pick $values.autoscaling "minReplicas" "maxReplicas" }}
{{- if .canary }}
  {{- $strategy := include "realfake.strategy" .root }}
  {{- if or $canary.image.repository $canary.image.tag $canary.image.digest }}
    {{- $image = dict
      "repository" ($canary.image.repository | default $image.repository)
      "tag" ($canary.image.tag | default $image.tag)
      "digest" $canary.image.digest }}
  {{- end }}
  {{- if or $canary.model.storageUri $canary.model.digest (hasKey (get $canary.config "model" | default dict) "path") }}
    {{- $digest = $canary.model.digest }}
  {{- else if and (not $storageUri) (ne (toJson $image) (toJson (pick $values.image "repository" "tag" "digest"))) }}
    {{- /* The bundle is the image's own. */}}
    {{- $digest = "" }}
  {{- end }}
  {{- $storageUri = $canary.model.storageUri | default $storageUri }}
  {{- $overrides = $canary.config }}
  {{- if ne $strategy "revision" }}
    {{- $replicas = pick $canary "minReplicas" "maxReplicas" }}
  {{- end }}
  {{- if eq $strategy "route" }}
    {{- $name = printf "%s-canary" $name }}
  {{- end }}
{{- end }}
{{- $scales := or (eq $values.deploymentMode "Knative") (has $values.autoscaling.class (list "hpa" "keda")) }}
{{- dict
  "name" $name
  "canary" .canary
  "image" (include "realfake.image" (dict "root" .root "image" $image))
  "storageUri" $storageUri
  "settings" (include "realfake.settings" (dict "root" .root "overrides" $overrides "digest" $digest) | fromJson)
  "minReplicas" $replicas.minReplicas
  "maxReplicas" (ternary $replicas.maxReplicas $replicas.minReplicas $scales)
  | toJson }}
{{- end }}

{{- define "realfake.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* The settings to run with, as JSON: `config`, the canary's, and those the chart owns. Takes root, overrides and the bundle's digest. */}}
{{- define "realfake.settings" -}}
{{- $values := .root.Values }}
{{- $known := .root.Files.Get "files/settings.json" | fromJson }}
{{- $owned := dict "auth" (dict "mode" $values.auth.mode) }}
{{- with .digest }}
  {{- $_ := set $owned "model" (dict "digest" .) }}
{{- end }}
{{- if eq $values.auth.mode "api_key" }}
  {{- $_ := set $owned.auth "keys_dir" "/etc/realfake/keys" }}
{{- end }}
{{- if hasKey $known.server "metrics_port" }}
  {{- $_ := set $owned "server" (ternary (dict "metrics_port" 8082) (dict "metrics_enabled" false) $values.metrics.enabled) }}
{{- end }}
{{- $settings := dict }}
{{- if $values.gpu.enabled }}
  {{- /* `auto` would serve on the CPU, slowly, where the GPU is missing. */}}
  {{- $_ := set $settings "model" (dict "device" "cuda") }}
{{- end }}
{{- /* Not mergeOverwrite: it takes 0 and false for nothing. */}}
{{- range $layer := list $values.config .overrides $owned }}
  {{- range $group, $members := $layer }}
    {{- $merged := get $settings $group | default dict }}
    {{- range $key, $value := $members }}
      {{- $_ := set $merged $key $value }}
    {{- end }}
    {{- $_ := set $settings $group $merged }}
  {{- end }}
{{- end }}
{{- toJson $settings }}
{{- end }}

{{/* The same as a YAML file. JSON writes 33554432 where YAML of a float would say 3.3554432e+07, which is no integer. */}}
{{- define "realfake.settingsFile" -}}
{{- range $group, $members := . }}
{{ $group }}:
{{- range $key, $value := $members }}
  {{ $key }}: {{ toJson $value }}
{{- end }}
{{- end }}
{{- end }}

{{/* A setting that is in effect: given, or the default of this version. Takes root, settings, group, key; answers JSON. */}}
{{- define "realfake.setting" -}}
{{- $known := .root.Files.Get "files/settings.json" | fromJson }}
{{- $given := get .settings .group | default dict }}
{{- if hasKey $given .key }}
{{- get $given .key | toJson }}
{{- else }}
{{- get (get $known .group | default dict) .key | default "" | toJson }}
{{- end }}
{{- end }}

{{/* Seconds from SIGTERM to SIGKILL: the drain settings and room to exit. Takes root and settings. */}}
{{- define "realfake.graceSeconds" -}}
{{- $delay := include "realfake.setting" (dict "root" .root "settings" .settings "group" "server" "key" "drain_delay_s") | float64 }}
{{- $drain := include "realfake.setting" (dict "root" .root "settings" .settings "group" "server" "key" "drain_timeout_s") | float64 }}
{{- /* Audit records get 10 seconds after the drain, spans 2. */}}
{{- add (ceil (addf $delay $drain)) 15 }}
{{- end }}
