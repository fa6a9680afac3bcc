package imports

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "weft"

// pkg is a package of the repository: its own files and its tests.
type pkg struct {
	path      string // "weft/clientapi"
	dir       string
	doc       string
	imports   []string
	tests     []string // imports of test files only
	testsOnly bool     // nothing but test files
}

// repository reads every package of the module, without building anything.
func repository(t *testing.T) []*pkg {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var out []*pkg
	err = filepath.WalkDir(root, func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); dir != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "data") {
			return fs.SkipDir
		}
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil && dir != root {
			return fs.SkipDir // a module of its own
		}
		rel, err := filepath.Rel(root, dir)
		if err != nil {
			return err
		}
		p, err := readPackage(dir, path.Join(module, filepath.ToSlash(rel)))
		if p != nil {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 10 {
		t.Fatalf("found %d packages only", len(out))
	}
	return out
}

func readPackage(dir, importPath string) (*pkg, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		return nil, err
	}
	p := &pkg{path: importPath, dir: dir, testsOnly: true}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return nil, err
		}
		isTest := strings.HasSuffix(file, "_test.go")
		if !isTest {
			p.testsOnly = false
		}
		if f.Doc != nil && len(f.Doc.Text()) > len(p.doc) {
			p.doc = f.Doc.Text()
		}
		for _, i := range f.Imports {
			name := strings.Trim(i.Path.Value, `"`)
			if isTest {
				p.tests = append(p.tests, name)
			} else {
				p.imports = append(p.imports, name)
			}
		}
	}
	return p, nil
}

// within tells whether an import path is the package or below it.
func within(path, root string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}

var components = []string{"clientapi", "federationapi", "roomserver", "syncapi", "keyserver", "mediaapi"}

// component names the component that a path belongs to.
func component(path string) (name string, isAPI bool) {
	for _, c := range components {
		if within(path, module+"/"+c) {
			return c, within(path, module+"/"+c+"/api")
		}
	}
	return "", false
}

// rule forbids imports; it returns the reason, or "".
type rule func(from, to string) string

// rules are checked for every import of code that is no test.
func rules() []rule {
	return []rule{
		func(from, to string) string {
			if !within(from, module+"/matrix") {
				return ""
			}
			if within(to, module) && !within(to, module+"/matrix") {
				return "the protocol core knows nothing above it, so that it can be read, tested and reused alone"
			}
			for _, io := range []string{"os", "net", "net/http", "database/sql", "log", "log/slog", "os/exec", "io/ioutil", "github.com/sirupsen/logrus"} {
				if to == io {
					return "the protocol core does no I/O and logs nothing: what it needs comes in as arguments or small functions"
				}
			}
			if within(to, "sync") {
				return "the protocol core computes, one thing after the other, so that its tests need no race detector (test/run.sh)"
			}
			return ""
		},
		func(from, to string) string {
			fc, _ := component(from)
			tc, isAPI := component(to)
			if fc == "" || tc == "" || fc == tc || isAPI {
				return ""
			}
			return "a component reaches another through its api package alone, so that a wire can be put in between"
		},
		func(from, to string) string {
			if tc, _ := component(to); within(from, module+"/internal") && tc != "" {
				return "internal packages lie below the components and never import one or its api: declare the small interface you need"
			}
			return ""
		},
		func(from, to string) string {
			fc, isAPI := component(from)
			tc, toAPI := component(to)
			if isAPI && tc == fc && !toAPI {
				return "a contract does not depend on what fulfils it"
			}
			return ""
		},
		func(from, to string) string {
			if within(to, module+"/setup") && !within(from, module+"/setup") && !within(from, module+"/cmd") && !within(from, module+"/test") {
				return "setup wires everything, so nothing below may import it: imports point down, cmd → setup → components → api → internal → matrix"
			}
			if within(to, module+"/cmd") && !within(from, module+"/cmd") {
				return "cmd is the top: nothing imports it"
			}
			if within(to, module+"/test") && !within(from, module+"/test") {
				return "test holds tests only: nothing else imports it"
			}
			return ""
		},
		func(from, to string) string {
			if within(to, module+"/internal/eventstore/write") && !within(from, module+"/roomserver") && !within(from, module+"/internal/eventstore") {
				return "roomserver is the only writer of events and room state; everybody else reads through internal/eventstore"
			}
			return ""
		},
		func(_, to string) string {
			if strings.HasPrefix(to, "github.com/matrix-org/gomatrixserverlib") {
				return "gomatrixserverlib is a second opinion in test/differential (its own module), never a part of the server"
			}
			if strings.HasPrefix(to, "maunium.net/go/mautrix") {
				return "mautrix is a client for tests only"
			}
			for _, p := range []string{"pgregory.net/rapid", "testing", "net/http/httptest"} {
				if to == p {
					return "this belongs into test files"
				}
			}
			return ""
		},
		func(from, to string) string {
			if within(from, module+"/test") || within(from, module+"/cmd") || within(from, module+"/setup") {
				return ""
			}
			if to == "github.com/spf13/cobra" {
				return "the command line ends in cmd"
			}
			return ""
		},
	}
}

// allowedModules are the dependencies that the design names, for code that is
// no test.
var allowedModules = []string{
	"github.com/gorilla/mux", "github.com/lib/pq", "github.com/tidwall/gjson", "github.com/tidwall/sjson", "github.com/sirupsen/logrus",
	"github.com/golang-jwt/jwt/v5", "github.com/miekg/dns", "modernc.org/sqlite", "github.com/pressly/goose/v3",
	"github.com/klauspost/compress", "github.com/prometheus/client_golang", "github.com/spf13/cobra", "github.com/spf13/pflag",
	"golang.org/x/crypto", "golang.org/x/net", "golang.org/x/image", "golang.org/x/sync", "golang.org/x/sys", "golang.org/x/text", "golang.org/x/time",
	"github.com/KimMachineGun/automemlimit", "go.uber.org/automaxprocs", "github.com/cespare/xxhash/v2", "github.com/maypok86/otter/v2", "gopkg.in/yaml.v3",
	"github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go", "github.com/fxamacker/cbor/v2",
}

func TestImportDirection(t *testing.T) {
	n := 0
	for _, p := range repository(t) {
		for _, to := range p.imports {
			n++
			for _, broken := range rules() {
				if why := broken(p.path, to); why != "" && !allowedInTestSupport(p, to) {
					t.Errorf("%s imports %s: %s", p.path, to, why)
				}
			}
			if thirdParty(to) && !within(p.path, module+"/test") && !slices.ContainsFunc(allowedModules, func(m string) bool { return within(to, m) }) {
				t.Errorf("%s imports %s: it is none of the dependencies that docs/architecture.md accounts for", p.path, to)
			}
		}
		for _, to := range p.tests {
			n++
			if strings.HasPrefix(to, "github.com/matrix-org/gomatrixserverlib") {
				t.Errorf("tests of %s import %s: it belongs into test/differential, a module of its own", p.path, to)
			}
			if within(p.path, module+"/matrix") && within(to, module) && !within(to, module+"/matrix") {
				t.Errorf("tests of %s import %s: the protocol core is tested alone", p.path, to)
			}
		}
	}
	t.Logf("%d imports", n)
}

// allowedInTestSupport excuses packages that exist for tests (sqldb/sqldbtest,
// test/…): they may import what tests import.
func allowedInTestSupport(p *pkg, to string) bool {
	if within(to, module) {
		return false
	}
	return strings.HasSuffix(p.path, "test") || within(p.path, module+"/test")
}

func thirdParty(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return strings.Contains(first, ".")
}

// Packages for tests must not end up in the server.
func TestTestSupportIsOnlyImportedByTests(t *testing.T) {
	for _, p := range repository(t) {
		for _, to := range p.imports {
			if within(to, module) && strings.HasSuffix(to, "test") && !strings.HasSuffix(p.path, "test") && !within(p.path, module+"/test") {
				t.Errorf("%s imports %s, which is for tests only", p.path, to)
			}
		}
	}
}

// Style rule 16: every package says why it is as it is.
func TestPackageDocs(t *testing.T) {
	n := 0
	for _, p := range repository(t) {
		if p.testsOnly {
			continue
		}
		n++
		if len(strings.Fields(p.doc)) < 8 {
			t.Errorf("%s has no package comment that says why it is as it is (doc.go)", p.path)
		}
	}
	t.Logf("%d packages", n)
}

func TestNames(t *testing.T) {
	for _, p := range repository(t) {
		for part := range strings.SplitSeq(p.path, "/") {
			if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "manager", "misc"}, part) {
				t.Errorf("%s: %q says nothing about what is in it", p.path, part)
			}
		}
	}
}

// The rules themselves: each refuses what it is there for.
func TestRulesRefuse(t *testing.T) {
	for _, c := range []struct {
		from, to string
		refused  bool
	}{
		{"weft/matrix/event", "weft/internal/nid", true},
		{"weft/matrix/event", "net/http", true},
		{"weft/matrix/event", "sync/atomic", true},
		{"weft/matrix/event", "weft/matrix/id", false},
		{"weft/clientapi", "weft/roomserver", true},
		{"weft/clientapi", "weft/roomserver/api", false},
		{"weft/clientapi/push", "weft/clientapi", false},
		{"weft/clientapi/api", "weft/clientapi", true},
		{"weft/internal/bus", "weft/roomserver/api", true},
		{"weft/roomserver", "weft/setup", true},
		{"weft/cmd/weft", "weft/setup", false},
		{"weft/setup", "weft/cmd/weft", true},
		{"weft/syncapi", "weft/internal/eventstore/write", true},
		{"weft/syncapi", "weft/internal/eventstore", false},
		{"weft/roomserver", "weft/internal/eventstore/write", false},
		{"weft/roomserver", "github.com/matrix-org/gomatrixserverlib/spec", true},
		{"weft/syncapi", "maunium.net/go/mautrix/id", true},
		{"weft/syncapi", "testing", true},
		{"weft/syncapi", "github.com/spf13/cobra", true},
		{"weft/setup", "weft/test/integration", true},
	} {
		refused := false
		for _, broken := range rules() {
			refused = refused || broken(c.from, c.to) != ""
		}
		if refused != c.refused {
			t.Errorf("%s → %s: refused %v", c.from, c.to, refused)
		}
	}
}

// The protocol core starts nothing that goes on beside its caller.
func TestProtocolCoreIsSequential(t *testing.T) {
	seen := 0
	for _, p := range repository(t) {
		if !within(p.path, module+"/matrix") {
			continue
		}
		files, err := filepath.Glob(filepath.Join(p.dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			seen++
			ast.Inspect(file, func(n ast.Node) bool {
				if _, ok := n.(*ast.GoStmt); ok {
					t.Errorf("%s starts a goroutine; test/run.sh leaves the race detector out there", name)
				}
				return true
			})
		}
	}
	if seen < 20 {
		t.Errorf("%d files looked at", seen)
	}
}

// A read replica may be behind, so only statements whose answers never change may go there: each of these places says why its are.
func TestReplicasAreAskedInFewPlaces(t *testing.T) {
	allowed := map[string]int{"weft/internal/eventstore/replicas.go": 4, "weft/mediaapi/chunks.go": 1}
	found := make(map[string]int)
	for _, p := range repository(t) {
		files, err := filepath.Glob(filepath.Join(p.dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), ".Immutable("); n > 0 && !strings.HasSuffix(file, "_test.go") {
				found[p.path+"/"+filepath.Base(file)] = n
			}
		}
	}
	if !maps.Equal(found, allowed) {
		t.Errorf("statements for replicas are made in %v, not %v: say there why their answers never change, then here", found, allowed)
	}
}

// The server is a static binary: nothing in it needs cgo.
func TestNoCgo(t *testing.T) {
	for _, p := range repository(t) {
		if slices.Contains(p.imports, "C") {
			t.Errorf("%s uses cgo; the server is one static binary", p.path)
		}
	}
}
