package storage

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/eventstore"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/setup"
)

var fullScale = flag.Bool("full", false, "measure with 100,000 messages, 10,000 membership changes and 1,000 users")

// The limits, in bytes of the database, indexes included.
const (
	maxMessageSQLite   = 700
	maxMessagePostgres = 1000
	maxChange          = 2048
)

const (
	asToken      = "as-token-of-the-load"
	registration = `id: load
url: null
as_token: ` + asToken + `
hs_token: hs-token-of-the-load
sender_localpart: load
rate_limited: false
namespaces:
  users:
    - exclusive: false
      regex: "@.*"
`
)

// clock is the real time, set forward at will.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// running is a server with a load on it.
type running struct {
	load
	server *setup.Server
	db     *sqldb.DB // the same database, to look into it
	clock  *clock
}

func start(t *testing.T, database string, s scale) *running {
	t.Helper()
	o := newOthers(t, s.servers)
	dir := t.TempDir()
	file := filepath.Join(dir, "load.yaml")
	if err := os.WriteFile(file, []byte(registration), 0o600); err != nil {
		t.Fatal(err)
	}
	c := setup.Default()
	c.ServerName, c.DataDir, c.Database = string(home), dir, database
	c.Listeners = []setup.Listener{{Address: "127.0.0.1:0"}}
	c.RateLimits.Enabled = false
	c.Memory = 512 << 20
	c.Appservices = []string{file}
	c.Federation.CAFile, c.Federation.AllowPrivateAddresses = o.caFile, true
	log := logrus.New()
	log.SetLevel(logrus.WarnLevel)
	if !testing.Verbose() {
		log.SetLevel(logrus.ErrorLevel)
	}
	clock := &clock{}
	ctx, cancel := context.WithCancel(context.Background())
	server, err := setup.Run(ctx, c, setup.RunOptions{Log: log, Version: "test", Now: clock.now, Verify: !*fullScale, Dial: o.dial})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 32}
	o.api = &api{t: t, base: server.URLs()[0], http: &http.Client{Transport: transport}}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		if err := server.Wait(); err != nil {
			t.Errorf("the server stopped with %v", err)
		}
	})
	return &running{
		load:   load{t: t, api: o.api, others: o, scale: s},
		server: server, db: sqldbtest.Open(t, database), clock: clock,
	}
}

// settle waits until what follows the event stream has followed it.
func (r *running) settle() {
	r.t.Helper()
	r.api.must(http.MethodGet, client+"/notifications?limit=1", r.tokens[0], "")
}

// run does one part of the load and measures what it adds.
func (r *running) run(name string, part func() int) phase {
	r.t.Helper()
	began := time.Now()
	p := phase{name: name, before: measure(r.t, r.db)}
	p.n = part()
	r.settle()
	p.after = measure(r.t, r.db)
	r.t.Logf("%s: %d in %v, %.0f bytes each", name, p.n, time.Since(began).Round(time.Millisecond), p.eachTotal())
	return p
}

// TestBytesOnDisk measures what is stored for messages and memberships, and holds the
// limits; then it lets time pass, and finds that nothing is left that nobody can reach.
func TestBytesOnDisk(t *testing.T) {
	s := small()
	if *fullScale {
		s = full()
	}
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		r := start(t, newURL(), s)
		r.accounts()
		r.rooms()
		memberships := []phase{r.run("join", r.fill), r.run("change", r.churn)}
		messages := []phase{
			r.run("direct", func() int { return r.talkDirect(s.messages * 3 / 10) }),
			r.run("group", func() int { return r.talkInGroups(s.messages * 6 / 10) }),
			r.run("big room", func() int { return r.talkToAll(s.messages / 10) }),
		}
		devices := r.run("to-device", r.devices)
		r.fork(20)
		report(t, "after the load", table(measure(t, r.db), append(append(memberships, messages...), devices)))
		limit := maxMessageSQLite
		if r.db.Dialect() == sqldb.Postgres {
			limit = maxMessagePostgres
		}
		holds(t, "a message", messages, limit)
		holds(t, "a membership change", memberships, maxChange)
		if nodes, _ := r.unreachable(); nodes == 0 {
			t.Error("the load left nothing to sweep")
		}
		loaded := r.size()
		for range 3 {
			r.clock.advance(90 * 24 * time.Hour)
			if err := r.server.Upkeep(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		report(t, "after the upkeep", table(measure(t, r.db), nil))
		t.Logf("the database took %d bytes after the load and takes %d after the upkeep", loaded, r.size())
		if nodes, outliers := r.unreachable(); nodes+outliers != 0 {
			t.Errorf("%d state nodes and %d outliers are unreachable", nodes, outliers)
		}
	})
}

// holds fails where phases together store more than limit bytes for each of their events.
func holds(t *testing.T, what string, phases []phase, limit int) {
	t.Helper()
	bytes, n := 0.0, 0
	for _, p := range phases {
		bytes, n = bytes+p.eachTotal()*float64(p.n), n+p.n
	}
	got := bytes / float64(n)
	t.Logf("%s takes %.0f bytes", what, got)
	if got > float64(limit) {
		t.Errorf("%s takes %.0f bytes, want at most %d", what, got, limit)
	}
}

// size is what the database takes on disk, free pages and all.
func (r *running) size() int64 {
	r.t.Helper()
	n, err := r.db.Size(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// unreachable counts what sweeps are to remove.
func (r *running) unreachable() (nodes, outliers int) {
	r.t.Helper()
	events, err := eventstore.Open(r.db, eventstore.Options{})
	if err == nil {
		nodes, outliers, err = events.Unreachable(r.t.Context())
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Logf("%d state nodes and %d outliers are unreachable", nodes, outliers)
	return nodes, outliers
}

func report(t *testing.T, when, text string) {
	t.Helper()
	name := strings.TrimPrefix(t.Name(), "TestBytesOnDisk/")
	if *fullScale {
		fmt.Printf("\n%s, %s\n%s\n", name, when, text)
		return
	}
	t.Logf("%s, %s\n%s", name, when, text)
}

// Every table stands in docs/storage.md, with what it is for and when its rows go.
func TestEveryTableIsExplained(t *testing.T) {
	doc, err := os.ReadFile("../../docs/storage.md")
	if err != nil {
		t.Fatal(err)
	}
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		r := start(t, newURL(), small())
		tables := measure(t, r.db)
		if len(tables) < 40 {
			t.Errorf("only %d tables", len(tables))
		}
		for name := range tables {
			if !strings.HasPrefix(name, "goose_") && !strings.Contains(string(doc), "\n| `"+name+"` |") {
				t.Errorf("the table %s is not in docs/storage.md", name)
			}
		}
	})
}
