package deploy

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

const chartDir = root + "/deploy/helm/weft"

// values reads YAML over what every release must say.
func values(t *testing.T, text string) map[string]any {
	t.Helper()
	own := make(map[string]any)
	if err := yaml.UnmarshalStrict([]byte(text), &own); err != nil {
		t.Fatal(err)
	}
	base := map[string]any{"serverName": "example.org", "database": map[string]any{"url": "postgres://weft:secret@db/weft"}}
	return chartutil.CoalesceTables(own, base)
}

const polylith = `
replicas: 2
components:
  front: {run: [clientapi, syncapi], replicas: 4, resources: {limits: {memory: 2Gi}}}
  rooms: {run: [roomserver, keyserver, federationapi, mediaapi], autoscaling: {enabled: true}}
`

const everything = `
config: {log: {level: debug}, registration: {mode: token}, media: {max_upload: 100MiB}, well_known: {server: "matrix.example.org:443"}}
secretEnv: {WEFT_REGISTRATION_TOKENS: "a,b", WEFT_TURN_SHARED_SECRET: 'quoted " and: odd'}
extraEnv: [{name: WEFT_LOG_LEVEL, value: info}]
extraVolumes: [{name: bridges, secret: {secretName: bridges}}]
extraVolumeMounts: [{name: bridges, mountPath: /bridges}]
imagePullSecrets: [{name: registry}]
image: {repository: registry.example.org/weft, tag: v1}
autoscaling: {enabled: true, queuedJobs: 20, federationLag: 5000, followerLag: 500}
dataSizeLimit: 1Gi
cluster: {busPort: 7000, httpPort: 7001}
drainSeconds: 7
shutdownSeconds: 60
service: {type: LoadBalancer, annotations: {a: b}}
ingress: {enabled: true, className: nginx, annotations: {a: b}, hosts: [matrix.example.org, example.org], tls: [{secretName: tls, hosts: [matrix.example.org]}]}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
podAnnotations: {a: b}
podLabels: {team: chat}
nodeSelector: {disk: fast}
tolerations: [{key: only, operator: Exists}]
affinity: {podAntiAffinity: {}}
`

var releases = map[string]string{
	"default":          "",
	"existing secret":  `{database: {url: "", existingSecret: cluster-app, existingSecretKey: uri}}`,
	"autoscaling":      `{autoscaling: {enabled: true, queuedJobs: 20, federationLag: 5000, followerLag: 500}}`,
	"polylith":         polylith,
	"everything":       everything,
	"one pod":          `{replicas: 1, podDisruptionBudget: {enabled: false}, fullnameOverride: matrix}`,
	"polylith, metric": polylith + "serviceMonitor: {enabled: true}\n",
}

func TestChartHasNothingToComplainAbout(t *testing.T) {
	for name, text := range releases {
		for _, m := range lint.AllWithKubeVersion(chartDir, values(t, text), "chat", kubernetes(t)).Messages {
			if m.Severity >= support.WarningSev {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
	// As somebody lints it who has said nothing yet.
	for _, m := range lint.AllWithKubeVersion(chartDir, nil, "chat", kubernetes(t)).Messages {
		if m.Severity >= support.WarningSev {
			t.Errorf("without values: %v", m)
		}
	}
}

// kubernetes is a version to render for; that of Helm's own library is not filled in within a test.
func kubernetes(t *testing.T) *chartutil.KubeVersion {
	t.Helper()
	v, err := chartutil.ParseKubeVersion("v1.34.0")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// render gives the documents that helm would send to a cluster, by name of the template.
func render(t *testing.T, vals map[string]any) (map[string]string, error) {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	caps := *chartutil.DefaultCapabilities
	caps.KubeVersion = *kubernetes(t)
	if !chartutil.IsCompatibleRange(c.Metadata.KubeVersion, caps.KubeVersion.Version) {
		t.Fatalf("the chart does not want Kubernetes %s", caps.KubeVersion.Version)
	}
	if err := chartutil.ProcessDependenciesWithMerge(c, vals); err != nil {
		t.Fatal(err)
	}
	full, err := chartutil.ToRenderValues(c, vals, chartutil.ReleaseOptions{Name: "chat", Namespace: "matrix", Revision: 1, IsInstall: true}, &caps)
	if err != nil {
		return nil, err
	}
	e := engine.Engine{Strict: true}
	return e.Render(c, full)
}

// serviceMonitor is what the chart uses of the Prometheus operator's type.
type serviceMonitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Endpoints []struct {
			Port     string `json:"port"`
			Path     string `json:"path"`
			Interval string `json:"interval"`
		} `json:"endpoints"`
		Selector metav1.LabelSelector `json:"selector"`
	} `json:"spec"`
}

// objects are what a release consists of.
type objects struct {
	deployments []*appsv1.Deployment
	services    []*corev1.Service
	hpas        []*autoscalingv2.HorizontalPodAutoscaler
	pdbs        []*policyv1.PodDisruptionBudget
	ingresses   []*networkingv1.Ingress
	configs     []*corev1.ConfigMap
	secrets     []*corev1.Secret
	monitors    []*serviceMonitor
	notes       string
}

func decode[T any](text string, into *[]*T) error {
	v := new(T)
	*into = append(*into, v)
	return yaml.UnmarshalStrict([]byte(text), v)
}

func release(t *testing.T, text string) *objects {
	t.Helper()
	files, err := render(t, values(t, text))
	if err != nil {
		t.Fatal(err)
	}
	o, seen := &objects{}, make(map[string]bool)
	for file, content := range files {
		if strings.HasSuffix(file, "NOTES.txt") {
			o.notes = content
			continue
		}
		for doc := range strings.SplitSeq("\n"+content, "\n---") {
			var m struct {
				metav1.TypeMeta   `json:",inline"`
				metav1.ObjectMeta `json:"metadata"`
			}
			if err := yaml.Unmarshal([]byte(doc), &m); err != nil {
				t.Fatalf("%s: %v\n%s", file, err, doc)
			}
			if m.Kind == "" {
				if strings.TrimSpace(doc) != "" {
					t.Errorf("%s: no object: %s", file, doc)
				}
				continue
			}
			err := fmt.Errorf("nobody looks at a %s %s", m.APIVersion, m.Kind)
			switch m.APIVersion + " " + m.Kind {
			case "apps/v1 Deployment":
				err = decode(doc, &o.deployments)
			case "v1 Service":
				err = decode(doc, &o.services)
			case "autoscaling/v2 HorizontalPodAutoscaler":
				err = decode(doc, &o.hpas)
			case "policy/v1 PodDisruptionBudget":
				err = decode(doc, &o.pdbs)
			case "networking.k8s.io/v1 Ingress":
				err = decode(doc, &o.ingresses)
			case "v1 ConfigMap":
				err = decode(doc, &o.configs)
			case "v1 Secret":
				err = decode(doc, &o.secrets)
			case "monitoring.coreos.com/v1 ServiceMonitor":
				err = decode(doc, &o.monitors)
			}
			if err != nil {
				t.Errorf("%s: %v\n%s", file, err, doc)
			}
			if key := m.Kind + " " + m.Name; seen[key] || m.Name == "" || len(m.Name) > 63 {
				t.Errorf("%s: the name %q is taken or none", file, key)
			} else {
				seen[key] = true
			}
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	return o
}

func each(t *testing.T, test func(t *testing.T, o *objects)) {
	for _, name := range slices.Sorted(maps.Keys(releases)) {
		t.Run(name, func(t *testing.T) { test(t, release(t, releases[name])) })
	}
}

// selects tells whether a selector takes what has these labels.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return len(selector) > 0
}

func container(t *testing.T, d *appsv1.Deployment) *corev1.Container {
	t.Helper()
	if len(d.Spec.Template.Spec.Containers) != 1 {
		t.Fatalf("%s has %d containers", d.Name, len(d.Spec.Template.Spec.Containers))
	}
	return &d.Spec.Template.Spec.Containers[0]
}

func hasPort(c *corev1.Container, port intstr.IntOrString) bool {
	return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool {
		return p.Name == port.StrVal || port.Type == intstr.Int && p.ContainerPort == port.IntVal
	})
}

func TestSelectorsMatchWhatTheyAreFor(t *testing.T) {
	each(t, func(t *testing.T, o *objects) {
		if len(o.deployments) == 0 || len(o.services) == 0 {
			t.Fatal("no pods, or no way to them")
		}
		for _, d := range o.deployments {
			pod := d.Spec.Template.Labels
			if !selects(d.Spec.Selector.MatchLabels, pod) {
				t.Errorf("%s does not select its own pods", d.Name)
			}
			for _, other := range o.deployments {
				if other != d && selects(other.Spec.Selector.MatchLabels, pod) {
					t.Errorf("%s selects the pods of %s", other.Name, d.Name)
				}
			}
			for _, s := range d.Spec.Template.Spec.TopologySpreadConstraints {
				if !selects(s.LabelSelector.MatchLabels, pod) {
					t.Errorf("%s spreads other pods", d.Name)
				}
			}
			for _, s := range o.services {
				if !selects(s.Spec.Selector, pod) {
					t.Errorf("service %s leaves out %s: any node answers any request", s.Name, d.Name)
				}
				if s.Spec.SessionAffinity != "" {
					t.Errorf("service %s has sticky sessions", s.Name)
				}
				for _, p := range s.Spec.Ports {
					if !hasPort(container(t, d), p.TargetPort) {
						t.Errorf("service %s: no port %s in %s", s.Name, p.TargetPort.String(), d.Name)
					}
				}
			}
		}
		for _, b := range o.pdbs {
			n := 0
			for _, d := range o.deployments {
				if selects(b.Spec.Selector.MatchLabels, d.Spec.Template.Labels) {
					n++
				}
			}
			if n != 1 || b.Spec.MaxUnavailable == nil || b.Spec.MaxUnavailable.IntVal != 1 {
				t.Errorf("budget %s is for %d deployments: %+v", b.Name, n, b.Spec)
			}
		}
	})
}

func TestPodsRollAndStopInOrder(t *testing.T) {
	each(t, func(t *testing.T, o *objects) {
		for _, d := range o.deployments {
			c, spec := container(t, d), d.Spec.Template.Spec
			r := d.Spec.Strategy.RollingUpdate
			if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || r.MaxUnavailable.IntVal != 0 || r.MaxSurge.IntVal < 1 {
				t.Errorf("%s: %+v", d.Name, d.Spec.Strategy)
			}
			for what, p := range map[string]*corev1.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
				path := "/health"
				if what == "liveness" { // a database that is away for a moment must not kill all pods
					path = "/health/live"
				}
				if p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path || p.HTTPGet.Port.StrVal != "admin" || !hasPort(c, p.HTTPGet.Port) {
					t.Errorf("%s: %s probe %+v", d.Name, what, p)
				} else if p.TimeoutSeconds <= 5 {
					t.Errorf("%s: the %s probe gives up before /health does", d.Name, what)
				}
			}
			times := make(map[string]int64)
			for _, e := range c.Env {
				if s, ok := strings.CutSuffix(e.Value, "s"); ok {
					times[e.Name], _ = strconv.ParseInt(s, 10, 64)
				}
			}
			delay, stop := times["WEFT_SHUTDOWN_DELAY"], times["WEFT_SHUTDOWN_TIMEOUT"]
			if delay == 0 || stop == 0 || *spec.TerminationGracePeriodSeconds < delay+stop+10 {
				t.Errorf("%s: %d s of grace for %d s and %d s of stopping", d.Name, *spec.TerminationGracePeriodSeconds, delay, stop)
			}
		}
	})
}

func TestPodsMayDoLittle(t *testing.T) {
	each(t, func(t *testing.T, o *objects) {
		for _, d := range o.deployments {
			c, spec := container(t, d), d.Spec.Template.Spec
			if s := spec.SecurityContext; s == nil || !*s.RunAsNonRoot || *s.RunAsUser == 0 || *s.FSGroup != *s.RunAsGroup || s.SeccompProfile == nil {
				t.Errorf("%s: %+v", d.Name, s)
			}
			if s := c.SecurityContext; s == nil || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || !slices.Contains(s.Capabilities.Drop, "ALL") {
				t.Errorf("%s: %+v", d.Name, s)
			}
			if spec.EnableServiceLinks == nil || *spec.EnableServiceLinks {
				t.Errorf("%s: variables of services named weft would be taken for options", d.Name)
			}
			if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
				t.Errorf("%s: it needs no account", d.Name)
			}
			if c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s: without a limit each pod plans with the machine's memory", d.Name)
			}
			written := make(map[string]bool)
			for _, m := range c.VolumeMounts {
				i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
				if i < 0 {
					t.Errorf("%s: no volume %s", d.Name, m.Name)
					continue
				}
				written[m.MountPath] = spec.Volumes[i].EmptyDir != nil
			}
			if image := readDockerfile(t); !written[image.volume] || !written["/tmp"] {
				t.Errorf("%s writes to %v", d.Name, written)
			}
		}
	})
}

// environment gives what the container of a Deployment would have, and checks that what it refers to is there.
func environment(t *testing.T, o *objects, d *appsv1.Deployment, known map[string]bool) map[string]string {
	t.Helper()
	env := maps.Clone(readDockerfile(t).env)
	for _, e := range container(t, d).Env {
		value := e.Value
		if e.ValueFrom != nil {
			value = valueOf(t, o, e.ValueFrom)
		}
		for k, v := range env {
			value = strings.ReplaceAll(value, "$("+k+")", v)
		}
		env[e.Name] = value
		if e.Name != "POD_IP" && e.Name != "WEFT_CONFIG" && !known[e.Name] {
			t.Errorf("%s: Weft does not know %s", d.Name, e.Name)
		}
	}
	return env
}

func valueOf(t *testing.T, o *objects, from *corev1.EnvVarSource) string {
	t.Helper()
	switch {
	case from.FieldRef != nil && from.FieldRef.FieldPath == "status.podIP":
		return "fd00::7"
	case from.SecretKeyRef != nil && from.SecretKeyRef.Name == "cluster-app":
		return "postgresql://weft:secret@db/weft"
	case from.SecretKeyRef != nil:
		for _, s := range o.secrets {
			if v, ok := s.StringData[from.SecretKeyRef.Key]; ok && s.Name == from.SecretKeyRef.Name {
				return v
			}
		}
	}
	t.Errorf("nothing gives %+v", from)
	return ""
}

func TestWeftTakesTheConfigurationOfEachPod(t *testing.T) {
	known, all := options(t)
	each(t, func(t *testing.T, o *objects) {
		var run []string
		for _, d := range o.deployments {
			env := environment(t, o, d, known)
			if env["WEFT_DATABASE"] == "" || env["WEFT_CLUSTER_LISTEN"] == "" {
				t.Errorf("%s: %v", d.Name, env)
			}
			if len(o.configs) != 1 || d.Spec.Template.Spec.Volumes[0].ConfigMap.Name != o.configs[0].Name {
				t.Fatalf("%s reads %+v", d.Name, d.Spec.Template.Spec.Volumes[0])
			}
			name, ok := strings.CutPrefix(env["WEFT_CONFIG"], "/etc/weft/")
			if !ok {
				t.Errorf("%s: the configuration is %s", d.Name, env["WEFT_CONFIG"])
			}
			env["WEFT_CONFIG"] = filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(env["WEFT_CONFIG"], []byte(o.configs[0].Data[name]), 0o600); err != nil {
				t.Fatal(err)
			}
			args := container(t, d).Args
			checkConfig(t, d.Name, env, args)
			for _, a := range args {
				list, ok := strings.CutPrefix(a, "--components=")
				if !ok {
					t.Errorf("%s: flag %s", d.Name, a)
				}
				run = append(run, strings.Split(list, ",")...)
			}
			if len(args) == 0 {
				run = all
			}
			for name, variable := range map[string]string{"http": "WEFT_LISTEN", "admin": "WEFT_ADMIN_LISTEN", "bus": "WEFT_CLUSTER_LISTEN",
				"handover": "WEFT_CLUSTER_HTTP_LISTEN"} {
				host, port, err := net.SplitHostPort(env[variable])
				if err != nil || host != "" && host != "fd00::7" {
					t.Errorf("%s: %s is %q", d.Name, variable, env[variable])
				}
				n, err := strconv.Atoi(port)
				if !slices.Contains(container(t, d).Ports, corev1.ContainerPort{Name: name, ContainerPort: int32(n)}) || err != nil {
					t.Errorf("%s: port %s is %s", d.Name, name, port)
				}
			}
		}
		for _, c := range all {
			if !slices.Contains(run, c) {
				t.Errorf("nothing runs %s", c)
			}
		}
	})
}

func TestAutoscaling(t *testing.T) {
	each(t, func(t *testing.T, o *objects) {
		scaled := make(map[string]bool)
		for _, h := range o.hpas {
			scaled[h.Spec.ScaleTargetRef.Name] = true
			ref := h.Spec.ScaleTargetRef
			i := slices.IndexFunc(o.deployments, func(d *appsv1.Deployment) bool { return d.Name == ref.Name })
			if i < 0 || ref.Kind != "Deployment" || ref.APIVersion != "apps/v1" {
				t.Errorf("%s scales %+v, which is not there", h.Name, ref)
				continue
			}
			if container(t, o.deployments[i]).Resources.Requests.Cpu().IsZero() {
				t.Errorf("%s: percent of no CPU", h.Name)
			}
			if *h.Spec.MinReplicas > h.Spec.MaxReplicas || len(h.Spec.Metrics) == 0 {
				t.Errorf("%s: %+v", h.Name, h.Spec)
			}
		}
		for _, d := range o.deployments {
			if (d.Spec.Replicas == nil) != scaled[d.Name] {
				t.Errorf("%s: its number of pods has two masters, or none", d.Name)
			}
		}
	})
	o := release(t, releases["autoscaling"])
	const cpu, jobs, sending, following = "cpu 70", "weft_roomserver_queued_jobs 20", "weft_federation_lag_positions 5000", "weft_sync_follower_lag_positions 500"
	if len(o.hpas) != 1 || !slices.Equal(scaledBy(t, o.hpas[0]), []string{cpu, jobs, sending, following}) {
		t.Fatalf("%+v", o.hpas)
	}
	for _, h := range release(t, `{autoscaling: {enabled: true}}`).hpas {
		if got := scaledBy(t, h); !slices.Equal(got, []string{cpu}) {
			t.Errorf("without an adapter: %v", got)
		}
	}
	for _, h := range release(t, polylith+"autoscaling: {enabled: true, queuedJobs: 20, federationLag: 5000, followerLag: 500}\n").hpas {
		want := []string{cpu, following}
		if strings.HasSuffix(h.Name, "-rooms") {
			want = []string{cpu, jobs, sending}
		}
		if got := scaledBy(t, h); !slices.Equal(got, want) {
			t.Errorf("%s: %v", h.Name, got)
		}
	}
}

// scaledBy gives what pods come by: each metric and how much of it a pod may have on average.
func scaledBy(t *testing.T, h *autoscalingv2.HorizontalPodAutoscaler) (out []string) {
	t.Helper()
	for _, m := range h.Spec.Metrics {
		switch {
		case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
			out = append(out, fmt.Sprintf("%s %d", m.Resource.Name, *m.Resource.Target.AverageUtilization))
		case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil && m.Pods.Target.Type == autoscalingv2.AverageValueMetricType:
			out = append(out, fmt.Sprintf("%s %d", m.Pods.Metric.Name, m.Pods.Target.AverageValue.Value()))
		default:
			t.Errorf("%s: %+v", h.Name, m)
		}
	}
	return out
}

func TestPolylithMakesOneDeploymentForEachSet(t *testing.T) {
	o := release(t, polylith)
	got := make(map[string]string)
	for _, d := range o.deployments {
		n := "scaled"
		if d.Spec.Replicas != nil {
			n = strconv.Itoa(int(*d.Spec.Replicas))
		}
		c := container(t, d)
		got[d.Name] = n + " " + strings.Join(c.Args, " ") + " " + c.Resources.Limits.Memory().String() + " " + c.Resources.Requests.Cpu().String()
	}
	want := map[string]string{
		"chat-weft-front": "4 --components=clientapi,syncapi 2Gi 250m",
		"chat-weft-rooms": "scaled --components=roomserver,keyserver,federationapi,mediaapi 1Gi 250m",
	}
	if !maps.Equal(got, want) || len(o.hpas) != 1 || len(o.pdbs) != 2 {
		t.Errorf("%v, %d, %d", got, len(o.hpas), len(o.pdbs))
	}
}

func TestIngressAndMonitorFindTheirServices(t *testing.T) {
	o := release(t, everything)
	if len(o.ingresses) != 1 || len(o.monitors) != 1 || len(o.services) != 2 {
		t.Fatalf("%+v", o)
	}
	for _, rule := range o.ingresses[0].Spec.Rules {
		var paths []string
		for _, p := range rule.HTTP.Paths {
			paths = append(paths, p.Path)
			b := p.Backend.Service
			if !slices.ContainsFunc(o.services, func(s *corev1.Service) bool {
				return s.Name == b.Name && slices.ContainsFunc(s.Spec.Ports, func(q corev1.ServicePort) bool { return q.Name == b.Port.Name })
			}) {
				t.Errorf("%s%s leads to %+v, which is not there", rule.Host, p.Path, b)
			}
		}
		if !slices.Equal(paths, []string{"/_matrix", "/.well-known/matrix"}) {
			t.Errorf("%s: %v", rule.Host, paths)
		}
	}
	m, found := o.monitors[0], 0
	for _, s := range o.services {
		metrics := slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == m.Spec.Endpoints[0].Port })
		if selects(m.Spec.Selector.MatchLabels, s.Labels) {
			found++
			if !metrics || s.Spec.ClusterIP != corev1.ClusterIPNone {
				t.Errorf("%s has no metrics of each pod", s.Name)
			}
		} else if metrics {
			t.Errorf("%s shows metrics and profiles to all", s.Name)
		}
	}
	if found != 1 || m.Spec.Endpoints[0].Path != "/metrics" {
		t.Errorf("%d services for %+v", found, m.Spec)
	}
}

func TestNotesNameWhatIsThere(t *testing.T) {
	each(t, func(t *testing.T, o *objects) {
		for _, d := range o.deployments {
			if !strings.Contains(o.notes, "deployment/"+d.Name) {
				t.Errorf("%s is not among %s", d.Name, o.notes)
			}
		}
	})
}

func TestChartRefusesWhatCannotWork(t *testing.T) {
	for want, text := range map[string]string{
		"serverName must be set": `{serverName: ""}`,
		"database.url or":        `{database: {url: ""}}`,
		"nothing runs mediaapi":  `{components: {a: {run: [roomserver, clientapi, syncapi, keyserver, federationapi]}}}`,
		"ingress.hosts":          `{ingress: {enabled: true}}`,
		"replica":                `{replica: 3}`,
		"postgres":               `{database: {url: "sqlite:weft.db"}}`,
		"roomserver":             `{components: {a: {run: [roomservice]}}}`,
		"propertyName":           `{secretEnv: {DATABASE: x}}`,
		"drainSeconds":           `{drainSeconds: 0}`,
	} {
		if _, err := render(t, values(t, text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want an error about %q", text, err, want)
		}
	}
}
