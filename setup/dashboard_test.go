package setup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/sqldb/sqldbtest"
)

const deployDir = "../deploy"

// panel is what the tests need of a panel of Grafana.
type panel struct {
	ID      int    `json:"id"`
	Type    string `json:"type"`
	Title   string `json:"title"`
	GridPos struct {
		X, Y, W, H int
	} `json:"gridPos"`
	Targets []struct {
		RefID  string `json:"refId"`
		Expr   string `json:"expr"`
		Legend string `json:"legendFormat"`
	} `json:"targets"`
	Panels []panel `json:"panels"`
}

type dashboard struct {
	UID           string `json:"uid"`
	SchemaVersion int    `json:"schemaVersion"`
	Templating    struct {
		List []struct {
			Name       string `json:"name"`
			Type       string `json:"type"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(deployDir, "grafana", "weft.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDashboardIsWellFormed(t *testing.T) {
	d := readDashboard(t)
	if d.UID == "" || d.SchemaVersion < 39 || len(d.Templating.List) == 0 || d.Templating.List[0].Type != "datasource" {
		t.Errorf("uid %q, schema %d, variables %+v", d.UID, d.SchemaVersion, d.Templating.List)
	}
	ids := make(map[int]bool)
	taken := make(map[[2]int]string)
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID <= 0 {
			t.Errorf("panel %q: the id %d is not its own", p.Title, p.ID)
		}
		ids[p.ID] = true
		g := p.GridPos
		if p.Title == "" || g.W < 1 || g.H < 1 || g.X < 0 || g.Y < 0 || g.X+g.W > 24 {
			t.Errorf("panel %d %q lies at %+v", p.ID, p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("panels %q and %q overlap", other, p.Title)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if len(p.Panels) > 0 {
			t.Errorf("row %q is collapsed: what it hides is not looked at here", p.Title)
		}
		if (p.Type == "row") != (len(p.Targets) == 0) {
			t.Errorf("panel %q of type %s has %d queries", p.Title, p.Type, len(p.Targets))
		}
		refs := make(map[string]bool)
		for _, q := range p.Targets {
			if refs[q.RefID] || strings.Count(q.Expr, "(") != strings.Count(q.Expr, ")") || strings.Count(q.Expr, "{") != strings.Count(q.Expr, "}") {
				t.Errorf("panel %q: query %s %s", p.Title, q.RefID, q.Expr)
			}
			refs[q.RefID] = true
		}
	}
}

var (
	promTexts    = regexp.MustCompile(`"[^"]*"|\[[^\]]*\]`)
	promMatchers = regexp.MustCompile(`\{[^}]*\}`)
	promGroups   = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)`)
	promNames    = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\s*\(?`)
	promNumbers  = regexp.MustCompile(`\b[0-9.]+(e[0-9]+)?\b`)
	legendLabels = regexp.MustCompile(`\{\{([a-z]+)\}\}`)
	sampleLabels = regexp.MustCompile(`([a-z_]+)="`)
	deployNames  = regexp.MustCompile(`\bweft_[a-z0-9]+_[a-z0-9_]*[a-z0-9]`)
	labelNames   = regexp.MustCompile(`[a-zA-Z_][a-zA-Z0-9_]*`)
)

// promQL gives the metrics and the labels that an expression names.
func promQL(expr string) (metrics, labels []string) {
	expr = promTexts.ReplaceAllString(expr, " ")
	for _, m := range promMatchers.FindAllString(expr, -1) {
		labels = append(labels, labelNames.FindAllString(m, -1)...)
	}
	expr = promMatchers.ReplaceAllString(expr, " ")
	for _, m := range promGroups.FindAllStringSubmatch(expr, -1) {
		labels = append(labels, labelNames.FindAllString(m[2], -1)...)
	}
	expr = promNumbers.ReplaceAllString(promGroups.ReplaceAllString(expr, " "), " ")
	for _, name := range promNames.FindAllString(expr, -1) {
		if name = strings.TrimSpace(name); !strings.HasSuffix(name, "(") && !slices.Contains([]string{"and", "or", "unless", "bool", "offset"}, name) {
			metrics = append(metrics, name)
		}
	}
	return metrics, labels
}

func TestPromQL(t *testing.T) {
	m, l := promQL(`topk(10, sum by (le, route) (rate(a_total{code=~"5..",x!="b"}[$__rate_interval])) > 0.5e3) or vector(0) / clamp_min(c:d, 1)`)
	if fmt.Sprint(m) != "[a_total c:d]" || fmt.Sprint(l) != "[code x le route]" {
		t.Error(m, l)
	}
}

// scrape gives the names of the metrics that servers export, with samples, and of all their labels.
func scrape(t *testing.T, servers ...*Server) (metrics, labels map[string]bool) {
	t.Helper()
	metrics, labels = make(map[string]bool), make(map[string]bool)
	for _, s := range servers {
		res, err := http.Get(s.AdminURL() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		for line := range bytes.Lines(data) {
			if bytes.HasPrefix(line, []byte("#")) {
				continue
			}
			name, rest, _ := strings.Cut(string(line), " ")
			name, braces, ok := strings.Cut(name, "{")
			metrics[name] = true
			if ok {
				for _, l := range sampleLabels.FindAllStringSubmatch(braces+rest, -1) {
					labels[l[1]] = true
				}
			}
		}
	}
	return metrics, labels
}

// A panel that asks for what does not exist shows nothing, as if all were well.
func TestDashboardAsksForWhatThereIs(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		s, _ := boot(t, testConfig(t, "m.test"))
		register(t, s.URLs()[0], "alice")
		checkNames(t, func(name string) bool {
			return strings.HasPrefix(name, "weft_cluster_") || strings.HasPrefix(name, "weft_rpc_")
		}, s)
	})
	t.Run("postgres", func(t *testing.T) {
		url := sqldbtest.PostgresURL(t)
		var both []*Server
		for _, components := range [][]string{{"roomserver", "keyserver", "federationapi"}, {"clientapi", "syncapi", "mediaapi"}} {
			c := testConfig(t, "m.test")
			c.Database, c.Components = url, components
			s, _ := boot(t, c)
			both = append(both, s)
		}
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		// The bus is there once they have seen each other.
		for deadline := time.Now().Add(time.Minute); both[0].bus.far.Load() == nil || both[1].bus.far.Load() == nil; <-tick.C {
			if time.Now().After(deadline) {
				t.Fatal("the two processes do not see each other")
			}
		}
		token := register(t, both[0].URLs()[0], "alice")
		if status, got := call(t, "POST", both[0].URLs()[0]+"/_matrix/client/v3/createRoom", token, "{}"); status != 200 {
			t.Fatalf("a room of two processes: %d %v", status, got)
		}
		checkNames(t, func(string) bool { return false }, both...)
	})
}

// checkNames looks for all metrics and labels that the files of deploy name in what servers export, but for those that
// such servers lack.
func checkNames(t *testing.T, lacks func(name string) bool, servers ...*Server) {
	t.Helper()
	metrics, labels := scrape(t, servers...)
	labels["job"], labels["instance"] = true, true // Prometheus's own
	metric := func(where, name string) {
		if !metrics[name] && !lacks(name) {
			t.Errorf("%s: no server exports %s", where, name)
		}
	}
	label := func(where, name string) {
		if !labels[name] {
			t.Errorf("%s: no metric has a label %s", where, name)
		}
	}
	// check reports whether the servers lack what an expression asks for, and so its labels.
	check := func(where, expr string) (lacking bool) {
		named, by := promQL(expr)
		if len(named) == 0 {
			t.Errorf("%s: no metric in %s", where, expr)
		}
		for _, n := range named {
			metric(where, n)
		}
		if slices.ContainsFunc(named, lacks) {
			return true
		}
		for _, l := range by {
			label(where, l)
		}
		return false
	}
	d := readDashboard(t)
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			if check(p.Title, q.Expr) {
				continue
			}
			for _, l := range legendLabels.FindAllStringSubmatch(q.Legend, -1) {
				label(p.Title, l[1])
			}
		}
	}
	for _, v := range d.Templating.List {
		if inner, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			check("variable "+v.Name, inner[:strings.LastIndex(inner, ",")])
		}
	}
	for where, name := range metricsInDeploy(t) {
		if !metrics[name+"_bucket"] { // people name a histogram so
			metric(where, name)
		}
	}
}

// metricsInDeploy gives the metrics that the chart, the other files and their page name, by where.
func metricsInDeploy(t *testing.T) map[string]string {
	t.Helper()
	out := make(map[string]string)
	look := func(path string) error {
		data, err := os.ReadFile(path)
		for i, name := range deployNames.FindAllString(string(data), -1) {
			out[fmt.Sprintf("%s, metric %d", path, i+1)] = name
		}
		return err
	}
	err := filepath.WalkDir(deployDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" && filepath.Ext(path) != ".tpl" && filepath.Ext(path) != ".txt" {
			return err
		}
		return look(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := look("../docs/deploy.md"); err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Error("nothing names a metric")
	}
	return out
}
