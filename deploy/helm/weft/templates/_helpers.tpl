{{- define "weft.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* Names of objects have at most 63 characters; the names of sets and parts follow. */}}
{{- define "weft.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "weft.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "weft.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* What all pods of the release have in common: the Service takes them all. */}}
{{- define "weft.selector" -}}
app.kubernetes.io/name: {{ include "weft.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "weft.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
{{ include "weft.selector" . }}
{{- end }}

{{- /*
The Deployments as YAML, by name of the set: one named "all", or one for each entry of components with what it has of its own
laid over the values of the release.
*/}}
{{- define "weft.sets" -}}
{{- $common := pick .Values "replicas" "resources" "autoscaling" "nodeSelector" "tolerations" "affinity" }}
{{- $sets := dict }}
{{- if .Values.components }}
{{- $run := list }}
{{- range $name, $own := .Values.components }}
{{- $run = concat $run $own.run }}
{{- $_ := set $sets $name (mergeOverwrite (deepCopy $common) $own) }}
{{- end }}
{{- range list "roomserver" "clientapi" "syncapi" "keyserver" "federationapi" "mediaapi" }}
{{- if not (has . $run) }}
{{- fail (printf "components: nothing runs %s" .) }}
{{- end }}
{{- end }}
{{- else }}
{{- $_ := set $sets "all" (mergeOverwrite (dict "run" list) $common) }}
{{- end }}
{{- toYaml $sets }}
{{- end }}

{{- /* Name of a set's objects: (list $ name). */}}
{{- define "weft.setname" -}}
{{- $name := index . 1 }}
{{- include "weft.fullname" (index . 0) }}{{ if ne $name "all" }}-{{ $name }}{{ end }}
{{- end }}

{{- /* Selector of a set's pods: (list $ name). */}}
{{- define "weft.setselector" -}}
{{ include "weft.selector" (index . 0) }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}
