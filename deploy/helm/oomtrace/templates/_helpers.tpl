{{- define "oomtrace.name" -}}
{{- if contains "oomtrace" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-oomtrace{{ end }}
{{- end }}

{{- define "oomtrace.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "oomtrace.name" .) }}
{{- end }}

{{- define "oomtrace.selector" -}}
app.kubernetes.io/name: oomtrace
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "oomtrace.labels" -}}
{{ include "oomtrace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "oomtrace.metadata" -}}
name: {{ include "oomtrace.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "oomtrace.labels" . | nindent 2 }}
{{- end }}
