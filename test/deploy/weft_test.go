package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const root = "../.."

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// weft runs the binary with an environment that has nothing but env.
func weft(t *testing.T, env []string, args ...string) (string, error) {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "weft-deploy-"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", built.dir, "./cmd/weft")
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as it was built before for the check of cross-builds
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatalf("build the server: %v", built.err)
	}
	cmd := exec.Command(filepath.Join(built.dir, "weft"), args...)
	cmd.Env = append([]string{}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// checkConfig gives the environment and the flags of a container to the server, which refuses what it does not know.
func checkConfig(t *testing.T, where string, env map[string]string, flags []string) {
	t.Helper()
	var list []string
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	if out, err := weft(t, list, append([]string{"config", "check"}, flags...)...); err != nil {
		t.Errorf("%s: weft config check: %v: %s", where, err, out)
	}
}

// options are the variables that Weft knows, and its components.
func options(t *testing.T) (env map[string]bool, components []string) {
	t.Helper()
	out, err := weft(t, nil, "config", "reference")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	env = make(map[string]bool)
	for _, name := range regexp.MustCompile("`(WEFT_[A-Z0-9_]+)`").FindAllStringSubmatch(out, -1) {
		env[name[1]] = true
	}
	m := regexp.MustCompile("`components`\\*\\* \\(list, default `\\[([a-z, ]+)\\]`").FindStringSubmatch(out)
	if m == nil || len(env) < 20 {
		t.Fatalf("no components, or %d variables only, in %s", len(env), out)
	}
	return env, strings.Split(m[1], ", ")
}

// dockerfile is what the image says about itself.
type dockerfile struct {
	env        map[string]string
	exposed    []string
	volume     string
	entrypoint []string
	healthy    []string
	folders    []string
}

func readDockerfile(t *testing.T) dockerfile {
	t.Helper()
	data, err := os.ReadFile(root + "/deploy/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	d := dockerfile{env: make(map[string]string)}
	words := regexp.MustCompile(`"([^"]*)"`)
	list := func(s string) (out []string) {
		for _, w := range words.FindAllStringSubmatch(s, -1) {
			out = append(out, w[1])
		}
		return out
	}
	for line := range strings.Lines(string(data)) {
		what, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch what {
		case "ENV":
			for _, kv := range strings.Fields(rest) {
				k, v, _ := strings.Cut(kv, "=")
				d.env[k] = v
			}
		case "EXPOSE":
			d.exposed = strings.Fields(rest)
		case "VOLUME":
			d.volume = rest
		case "WORKDIR":
			d.folders = append(d.folders, rest)
		case "ENTRYPOINT":
			d.entrypoint = list(rest)
		case "HEALTHCHECK":
			d.healthy = list(rest)
		}
	}
	return d
}

func TestImageIsWhatTheFilesExpect(t *testing.T) {
	d := readDockerfile(t)
	if !slices.Equal(d.entrypoint, []string{"/weft", "serve"}) || d.volume != "/data" || d.env["WEFT_DATA_DIR"] != "/data" ||
		!slices.Contains(d.folders, "/tmp") || !slices.Contains(d.folders, "/data") {
		t.Errorf("%+v", d)
	}
	if d.env["WEFT_LISTEN"] != ":8008" || !slices.Contains(d.exposed, "8008") || !strings.HasSuffix(d.env["WEFT_ADMIN_LISTEN"], ":9008") {
		t.Errorf("%+v", d)
	}
	known, _ := options(t)
	for name := range d.env {
		if !known[name] {
			t.Errorf("the image sets %s, which Weft does not know", name)
		}
	}
	if len(d.healthy) < 2 || d.healthy[0] != "/weft" || d.healthy[1] != "healthcheck" {
		t.Errorf("health check %q", d.healthy)
	}
}

// cited finds commands of Weft in the files: at the start of a line, in backquotes, or by the path in the image.
var cited = regexp.MustCompile("(?m)(?:^|`|[ ]/)weft ([a-z]+(?:-[a-z]+)*(?: [a-z]+)?)((?: \\\\\n| [^`\n\\\\]+)*)")

func TestCommandsExist(t *testing.T) {
	found := 0
	for _, file := range []string{"docs/deploy.md", "deploy/compose.yaml", "deploy/helm/weft/templates/NOTES.txt", "README.md"} {
		data, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range cited.FindAllStringSubmatch(string(data), -1) {
			found++
			words := strings.Fields(m[1])
			help, err := weft(t, nil, append(slices.Clone(words), "--help")...)
			usage := "weft " + strings.Join(words, " ")
			if err != nil || !strings.Contains(help, usage) {
				t.Errorf("%s: %q is no command: %v %s", file, usage, err, help)
				continue
			}
			for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(m[2], -1) {
				if !regexp.MustCompile(flag + `\b`).MatchString(help) {
					t.Errorf("%s: %s has no flag %s", file, usage, flag)
				}
			}
		}
	}
	if found < 5 {
		t.Errorf("found %d commands only", found)
	}
}
