package deploy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

func loadCompose(t *testing.T, env types.Mapping) (*types.Project, error) {
	t.Helper()
	file, err := filepath.Abs(root + "/deploy/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: filepath.Dir(file), ConfigFiles: []types.ConfigFile{{Filename: file, Content: data}}, Environment: env,
	})
}

func composeFile(t *testing.T) *types.Project {
	t.Helper()
	p, err := loadCompose(t, types.Mapping{"WEFT_SERVER_NAME": "example.org", "POSTGRES_PASSWORD": "letters-and-digits"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var nodes = []string{"weft1", "weft2", "weft3"}

func TestComposeNodesAreEqual(t *testing.T) {
	p := composeFile(t)
	var first string
	for _, name := range nodes {
		s, err := p.GetService(name)
		if err != nil {
			t.Fatal(err)
		}
		s.Name = ""
		text, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = string(text)
		}
		if string(text) != first {
			t.Errorf("%s differs:\n%s\n\n%s", name, text, first)
		}
	}
}

func TestComposeNodeIsConfigured(t *testing.T) {
	p := composeFile(t)
	image := readDockerfile(t)
	known, _ := options(t)
	s, err := p.GetService("weft1")
	if err != nil {
		t.Fatal(err)
	}
	env := make(map[string]string)
	for k, v := range image.env {
		env[k] = v
	}
	for k, v := range s.Environment {
		if v == nil || !known[k] {
			t.Errorf("Weft does not know the variable %s", k)
			continue
		}
		env[k] = *v
	}
	checkConfig(t, "compose", env, s.Command)
	if want := "postgres://weft:letters-and-digits@database/"; !strings.HasPrefix(env["WEFT_DATABASE"], want) {
		t.Errorf("the database is %s", env["WEFT_DATABASE"])
	}
	h := s.HealthCheck
	if h == nil || !slices.Equal(h.Test, append([]string{"CMD"}, image.entrypoint[0], "healthcheck")) {
		t.Errorf("health check %+v", h)
	}
	limit := 10 * time.Second
	for _, name := range []string{"WEFT_SHUTDOWN_DELAY", "WEFT_SHUTDOWN_TIMEOUT"} {
		d, err := time.ParseDuration(env[name])
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		limit += d
	}
	if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) < limit {
		t.Errorf("killed after %v, which is sooner than %v", s.StopGracePeriod, limit)
	}
	for _, folder := range []string{env["WEFT_DATA_DIR"], "/tmp"} {
		if !slices.ContainsFunc(s.Tmpfs, func(m string) bool { return strings.HasPrefix(m, folder+":") }) {
			t.Errorf("%s cannot be written to", folder)
		}
	}
	if d, ok := s.DependsOn["database"]; !ok || d.Condition != types.ServiceConditionHealthy || !s.ReadOnly || s.User == "" || s.User == "0" {
		t.Errorf("%+v", s)
	}
}

func TestComposeProxyAsksEveryNode(t *testing.T) {
	p := composeFile(t)
	proxy, err := p.GetService("proxy")
	if err != nil {
		t.Fatal(err)
	}
	if len(proxy.Configs) != 1 || proxy.HealthCheck == nil || len(proxy.Ports) != 1 {
		t.Fatalf("%+v", proxy)
	}
	content := p.Configs[proxy.Configs[0].Source].Content
	for _, want := range []string{"balance roundrobin\n", "option httpchk GET /health\n", "default-server check port 9008 ", "bind :8008\n"} {
		if !strings.Contains(content, want) {
			t.Errorf("the proxy lacks %q: %s", want, content)
		}
	}
	for _, name := range nodes {
		s, err := p.GetService(name)
		if err != nil {
			t.Fatal(err)
		}
		if want := "server " + name + " " + name + ":8008\n"; !strings.Contains(content, want) {
			t.Errorf("the proxy lacks %q: %s", want, content)
		}
		if admin := s.Environment["WEFT_ADMIN_LISTEN"]; admin == nil || *admin != ":9008" {
			t.Errorf("%s: the proxy cannot ask for its health", name)
		}
	}
	subnet := p.Networks["default"].Ipam.Config[0].Subnet
	if s, _ := p.GetService("weft1"); *s.Environment["WEFT_TRUSTED_PROXIES"] != subnet {
		t.Errorf("the nodes do not trust %s", subnet)
	}
}

func TestComposeVolumesAndSecrets(t *testing.T) {
	p := composeFile(t)
	db, err := p.GetService("database")
	if err != nil {
		t.Fatal(err)
	}
	if len(db.Volumes) != 1 || db.HealthCheck == nil {
		t.Errorf("%+v", db)
	}
	for _, s := range p.Services {
		for _, v := range s.Volumes {
			if _, ok := p.Volumes[v.Source]; v.Type == types.VolumeTypeVolume && !ok {
				t.Errorf("%s: no volume %q", s.Name, v.Source)
			}
		}
	}
	// A password that somebody forgot must not become an empty one.
	for _, missing := range []string{"POSTGRES_PASSWORD", "WEFT_SERVER_NAME"} {
		env := types.Mapping{"WEFT_SERVER_NAME": "example.org", "POSTGRES_PASSWORD": "x"}
		delete(env, missing)
		if _, err := loadCompose(t, env); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("without %s: %v", missing, err)
		}
	}
}
