{{- define "octavo.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "octavo.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "octavo.labels" -}}
{{ include "octavo.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "octavo.secret" -}}
{{ .Values.secret.existing | default (include "octavo.name" .) }}
{{- end }}

{{- /* Flags as a file for --config. What the chart decides itself is refused among them. */ -}}
{{- define "octavo.config" -}}
{{- range list "host" "port" "shutdown-timeout" "models" "config" "api-key" }}
{{- if hasKey $.Values.flags . }}{{ fail (printf "flags.%s: the chart sets it; see values.yaml" .) }}{{ end }}
{{- end }}
{{- toYaml (merge (dict "host" "0.0.0.0" "port" 8000 "shutdown-timeout" .Values.shutdownTimeout "models" .Values.models) .Values.flags) }}
{{- end }}
