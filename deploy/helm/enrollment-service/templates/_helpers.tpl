{{- define "enrollment.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "enrollment.labels" -}}
{{ include "enrollment.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "enrollment.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "enrollment.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* What every pod has: no root, no rights, nothing to write to but /tmp. */ -}}
{{- define "enrollment.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  # Secrets belong to this group, so that others in the pod need not read them.
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
automountServiceAccountToken: false
# Variables for services that happen to be called enrollment would be taken for settings.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "enrollment.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "enrollment.endsTls" -}}
{{- if eq .Values.tls.mode "secret" }}true{{ end }}
{{- end }}

{{- /* A gRPC probe of Kubernetes knows no TLS; the service's own command does. */ -}}
{{- define "enrollment.probe" -}}
{{- if include "enrollment.endsTls" .root }}
exec:
  command: [python, -m, enrollment_service, health{{ with .service }}, --service, {{ . }}{{ end }}]
{{- else }}
grpc:
  port: {{ .root.Values.service.port }}
  {{- with .service }}
  service: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
