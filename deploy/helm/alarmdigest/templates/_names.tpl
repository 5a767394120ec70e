{{- define "alarmdigest.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}-alarmdigest
{{- end }}

{{- define "alarmdigest.selector" -}}
app.kubernetes.io/name: alarmdigest
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "alarmdigest.bridgeSelector" -}}
app.kubernetes.io/name: alarmdigest-bridge
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "alarmdigest.schedulerSelector" -}}
app.kubernetes.io/name: alarmdigest-scheduler
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "alarmdigest.deliverSelector" -}}
app.kubernetes.io/name: alarmdigest-deliver
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "alarmdigest.labels" -}}
{{ include "alarmdigest.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
