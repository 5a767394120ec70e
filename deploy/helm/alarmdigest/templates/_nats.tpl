{{/* How the pods reach NATS: those of the service and of all that stands beside it. */}}
{{- define "alarmdigest.natsEnv" -}}
- name: NATS_URL
  {{- if .Values.nats.urlSecret.name }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.nats.urlSecret.name }}
      key: {{ .Values.nats.urlSecret.key }}
  {{- else }}
  value: {{ .Values.nats.url | quote }}
  {{- end }}
{{- if .Values.nats.credsSecret.name }}
- name: NATS_CREDS
  value: /etc/alarmdigest/nats.creds
{{- end }}
{{- if .Values.nats.caSecret.name }}
- name: NATS_CA
  value: /etc/alarmdigest/ca.crt
{{- end }}
{{- if .Values.nats.certSecret.name }}
- name: NATS_CERT
  value: /etc/alarmdigest/tls.crt
- name: NATS_KEY
  value: /etc/alarmdigest/tls.key
{{- end }}
{{- end }}

{{- define "alarmdigest.natsVolume" -}}
- name: nats
  projected:
    defaultMode: 0440
    sources:
      {{- with .Values.nats.credsSecret }}
      {{- if .name }}
      - secret:
          name: {{ .name }}
          items:
            - key: {{ .key }}
              path: nats.creds
      {{- end }}
      {{- end }}
      {{- with .Values.nats.caSecret }}
      {{- if .name }}
      - secret:
          name: {{ .name }}
          items:
            - key: {{ .key }}
              path: ca.crt
      {{- end }}
      {{- end }}
      {{- with .Values.nats.certSecret }}
      {{- if .name }}
      - secret:
          name: {{ .name }}
          items:
            - key: tls.crt
              path: tls.crt
            - key: tls.key
              path: tls.key
      {{- end }}
      {{- end }}
{{- end }}
