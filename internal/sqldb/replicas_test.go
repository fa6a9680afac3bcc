package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// clock is one that goes when it is told to.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// lines collects what is logged about replicas.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Levels() []logrus.Level { return []logrus.Level{logrus.InfoLevel, logrus.WarnLevel} }

func (l *lines) Fire(e *logrus.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Data["replica"] != nil {
		l.all = append(l.all, e.Message)
	}
	return nil
}

func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.all = nil }()
	return l.all
}

// replicated is a database with a table of numbers and texts.
type replicated struct {
	*sqldbtest.Replicated
	t     *testing.T
	db    *sqldb.DB
	im    *sqldb.Immutable
	clock *clock
	lines *lines
}

func newReplicated(t *testing.T, o sqldb.Options) *replicated {
	t.Helper()
	r := &replicated{Replicated: sqldbtest.NewReplicated(t), t: t, clock: &clock{t: time.Unix(1_000_000, 0)}, lines: &lines{}}
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.AddHook(r.lines)
	o.Log, o.Now = log, r.clock.now
	url, _ := r.URLs()
	var err error
	if r.db, err = sqldb.Open(t.Context(), url, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.db.Close(); err != nil {
			t.Error(err)
		}
	})
	table(t, r.db)
	r.write(1)
	r.CatchUp()
	r.im = r.db.Immutable(`SELECT k, v FROM kv WHERE k IN `, 0)
	return r
}

func (r *replicated) write(k int) {
	r.t.Helper()
	exec(r.t, r.db, insert, k, "v")
}

func (r *replicated) use(urls ...string) {
	r.t.Helper()
	if err := r.db.UseReplicas(r.t.Context(), urls); err != nil {
		r.t.Fatal(err)
	}
}

// ask gives the numbers of the rows that a replica has, and whether one was asked.
func (r *replicated) ask(keys ...any) (found []int, asked bool) {
	r.t.Helper()
	a := sqldb.Ask(r.t.Context(), r.im, nil, keys, func(row func(...any) error) (k int, err error) {
		var v string
		err = row(&k, &v)
		return k, err
	})
	found = a.Rows(r.t.Context())
	slices.Sort(found)
	return found, a != nil
}

func (r *replicated) want(keys []any, found ...int) {
	r.t.Helper()
	if got, asked := r.ask(keys...); !asked || !slices.Equal(got, found) {
		r.t.Errorf("of %v the replica has %v (asked: %v), want %v", keys, got, asked, found)
	}
}

func (r *replicated) unasked() {
	r.t.Helper()
	if got, asked := r.ask(1); asked {
		r.t.Errorf("a replica was asked: %v", got)
	}
}

func (r *replicated) wantLines(want ...string) {
	r.t.Helper()
	got := r.lines.take()
	if len(got) != len(want) {
		r.t.Fatalf("the log says %q, want %q", got, want)
	}
	for i, w := range want {
		if !strings.Contains(got[i], w) {
			r.t.Errorf("the log says %q, want %q", got[i], w)
		}
	}
}

// again waits until replicas are asked again, after the rest of those that failed.
func (r *replicated) again() {
	r.t.Helper()
	r.clock.add(time.Minute)
	sqldbtest.Until(r.t, "a replica is asked again", func() bool {
		_, asked := r.ask(1)
		return asked
	})
}

func TestReplicaLagsFailsAndReturns(t *testing.T) {
	r := newReplicated(t, sqldb.Options{})
	r.unasked()
	_, standby := r.URLs()
	r.use(standby)
	r.want([]any{1}, 1)

	r.Pause()
	r.write(2)
	r.want([]any{1, 2}, 1)
	r.unasked() // it lags
	r.clock.add(time.Second)
	r.want([]any{1}, 1)
	r.Resume()
	r.want([]any{1, 2, 3}, 1, 2)
	r.clock.add(time.Second)
	r.wantLines()

	r.Stop()
	r.want([]any{1})
	r.unasked()
	r.wantLines("left alone")
	if s := r.db.ReplicaStats(); s != (sqldb.ReplicaStats{Found: 2, Missed: 2, Failed: 1, Passed: 2}) {
		t.Errorf("%+v", s)
	}
	r.clock.add(time.Minute)
	r.unasked() // somebody looks meanwhile
	r.Continue()
	r.again()
	r.want([]any{1, 2}, 1, 2)
	r.wantLines("used again")
	if s := r.db.ReplicaStats(); s.Used != 1 {
		t.Errorf("%d replicas are used", s.Used)
	}
}

func TestReplicaIsSlow(t *testing.T) {
	r := newReplicated(t, sqldb.Options{})
	gate := newGate(t, r.Standby.Dir)
	r.use(with(t, r.Standby.URL(nil), "host", gate.dir))
	r.want([]any{1}, 1)
	gate.shut()
	start := time.Now()
	r.want([]any{1})
	if took := time.Since(start); took < 400*time.Millisecond || took > 1500*time.Millisecond {
		t.Errorf("waited %v", took)
	}
	r.unasked()
	r.wantLines("left alone")
	gate.open()
	r.again()
	r.wantLines("used again")
	// A request that ends meanwhile is nobody's fault.
	gate.shut()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := sqldb.Ask(ctx, r.im, nil, []any{1}, func(row func(...any) error) (k int, err error) { return k, row(&k, new(string)) })
	if rows := a.Rows(ctx); a == nil || rows != nil {
		t.Errorf("%v", rows)
	}
	gate.open()
	if s := r.db.ReplicaStats(); s.Failed != 1 || s.Used != 1 {
		t.Errorf("%+v", s)
	}
}

func TestReplicasTakeTurns(t *testing.T) {
	r := newReplicated(t, sqldb.Options{MaxConns: 3})
	var urls []string
	for _, name := range []string{"first", "second"} {
		urls = append(urls, with(t, r.Standby.URL(nil), "application_name", name))
	}
	r.use(urls...)
	im := r.db.Immutable(`SELECT current_setting('application_name'), current_setting('transaction_read_only'),
		current_setting('statement_timeout') FROM kv WHERE k IN `, 0)
	count := map[string]int{}
	for range 20 {
		for _, name := range sqldb.Ask(t.Context(), im, nil, []any{1}, func(row func(...any) error) (name string, err error) {
			var readOnly, timeout string
			if err = row(&name, &readOnly, &timeout); err == nil && (readOnly != "on" || timeout != "500ms") {
				err = errors.New(readOnly + " " + timeout)
			}
			return name, err
		}).Rows(t.Context()) {
			count[name]++
		}
	}
	if count["first"] != 10 || count["second"] != 10 {
		t.Errorf("%v", count)
	}
	// Where all connections are in use, nobody waits for one.
	hold, held := make(chan struct{}), make([]*sqldb.Answer[int], 0, 6)
	for range 6 {
		held = append(held, sqldb.Ask(t.Context(), r.im, nil, []any{1}, func(row func(...any) error) (k int, err error) {
			<-hold
			return k, row(&k, new(string))
		}))
	}
	r.unasked()
	close(hold)
	for i, a := range held {
		if got := a.Rows(t.Context()); !slices.Equal(got, []int{1}) {
			t.Errorf("%d: %v", i, got)
		}
	}
}

func TestReplicaIsChecked(t *testing.T) {
	r := newReplicated(t, sqldb.Options{})
	exec(t, r.db, `CREATE ROLE stranger LOGIN`)
	admin, err := sql.Open("postgres", r.Primary.URL(nil))
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.ExecContext(t.Context(), `CREATE DATABASE other`)
	if err := errors.Join(err, admin.Close()); err != nil {
		t.Fatal(err)
	}
	r.CatchUp()
	primary, standby := r.URLs()
	for _, c := range []struct{ name, url, want string }{
		{"another cluster", sqldbtest.PostgresURL(t), "replica of another database"},
		{"another database of the cluster", strings.Replace(standby, "/postgres?", "/other?", 1), "replica of another database"},
		{"a database that is not there", strings.Replace(standby, "/postgres?", "/none?", 1), "does not exist"},
		{"a role that may not read", strings.Replace(standby, "weft@", "stranger@", 1), "permission denied for table kv"},
		{"an unknown role", strings.Replace(standby, "weft@", "nobody@", 1), "does not exist"},
		{"several hosts", with(t, standby, "host", "/a,/b"), "one host"},
		{"no URL", "postgres://%", "read replica"},
	} {
		if err := r.db.UseReplicas(t.Context(), []string{c.url}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := r.db.UseReplicas(t.Context(), make([]string, 17)); err == nil {
		t.Error("17 replicas are taken")
	}
	if err := sqldbtest.Open(t, sqldbtest.SQLiteURL(t)).UseReplicas(t.Context(), []string{standby}); err == nil {
		t.Error("SQLite takes replicas")
	}
	r.unasked()
	r.wantLines()
	// These may be well another time.
	r.use(primary, with(t, standby, "host", "/nowhere"))
	r.unasked()
	r.wantLines("cannot be used yet", "cannot be used yet")
}

// TestReplicaIsPromoted: after a failover the standby is a primary, and the old primary no replica of it.
func TestReplicaIsPromoted(t *testing.T) {
	r := newReplicated(t, sqldb.Options{})
	primary, standby := r.URLs()
	db, err := sql.Open("postgres", standby)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), `SELECT pg_promote()`)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	r.use(standby) // takes writes
	r.unasked()
	r.wantLines("cannot be used yet")
	next := sqldbtest.Open(t, standby)
	if err := next.UseReplicas(t.Context(), []string{primary}); err != nil {
		t.Fatal(err)
	}
	if s := next.ReplicaStats(); s.Used != 0 {
		t.Errorf("%+v", s)
	}
}

// gate stands between clients and a server, and can keep all to itself that it is given.
type gate struct {
	dir string
	mu  sync.RWMutex // locked while it is shut
}

func newGate(t *testing.T, server string) *gate {
	t.Helper()
	const socket = ".s.PGSQL.5432"
	g := &gate{dir: t.TempDir()}
	l, err := net.Listen("unix", filepath.Join(g.dir, socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // connections end with those who have them
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	pass := func(to, from net.Conn) {
		defer to.Close()
		for buf := make([]byte, 4096); ; {
			n, err := from.Read(buf)
			g.mu.RLock()
			_, failed := to.Write(buf[:n])
			g.mu.RUnlock()
			if err != nil || failed != nil {
				return
			}
		}
	}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("unix", filepath.Join(server, socket))
			if err != nil {
				client.Close()
				continue
			}
			go pass(up, client)
			go pass(client, up)
		}
	}()
	return g
}

func (g *gate) shut() { g.mu.Lock() }
func (g *gate) open() { g.mu.Unlock() }
