package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// skews are how far the clocks of nodes are apart. They must change nothing.
var skews = []time.Duration{0, time.Minute, -time.Hour}

// onTables runs a test on both databases, with each skew.
func onTables(t *testing.T, test func(t *testing.T, w *world)) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		for _, skew := range skews {
			t.Run(skew.String(), func(t *testing.T) { test(t, openWorld(t, open(), skew)) })
		}
	})
}

func TestJoin(t *testing.T) {
	onTables(t, func(t *testing.T, w *world) {
		a := w.join("rooms", "keys")
		if share(a) != keyCount {
			t.Errorf("the first node owns %d keys at once, want all", share(a))
		}
		news := a.Changed()
		b := w.join("rooms")
		w.wantLive(a, "0")
		w.wantLive(b, "0 1")
		w.beats(a) // one beat later
		w.wantLive(a, "0 1")
		if !closed(news) || closed(a.Changed()) {
			t.Error("a node that joins is not announced once")
		}
		if got := a.Nodes()[slices.IndexFunc(a.Nodes(), func(n Node) bool { return n.ID == b.Self().ID })]; got.Address != "host1:1" ||
			got.Version != "1" || got.Leaving || !slices.Equal(got.Components, []string{"rooms"}) ||
			got.Started.UnixMilli() != b.Self().Started.UnixMilli() {
			t.Errorf("node %+v, want %+v", got, b.Self())
		}
		// What moves is owned by nobody until all must have heard of it.
		mine := share(a)
		if mine == 0 || mine == keyCount || share(b) != 0 {
			t.Errorf("shares %d and %d right after the join", mine, share(b))
		}
		w.pass(2, a, b)
		if w.now += time.Second - 1; share(b) != 0 {
			t.Error("the new node owns keys before LeaseTime has passed")
		}
		news = b.Changed()
		w.now++
		w.beats(a, b)
		w.wantOneOwner(a, b)
		if share(a) != mine || share(a)+share(b) != keyCount {
			t.Errorf("shares %d and %d in the end", share(a), share(b))
		}
		if !closed(news) {
			t.Error("the new node is not told that it owns its share now")
		}
		if n, ok := b.Owner("keys", "k"); !ok || n.ID != a.Self().ID || b.Owns("keys", "k") || !a.Owns("keys", "k") {
			t.Error("a component that one node runs is not its")
		}
		if _, ok := a.Owner("media", "k"); ok || a.Owns("media", "k") {
			t.Error("a component that nobody runs has an owner")
		}
		// Address and load travel with the next beat.
		news = a.Changed()
		b.SetLoad(1500)
		if err := b.SetAddress(t.Context(), "other:2", "other:3"); err != nil {
			t.Fatal(err)
		}
		w.beats(a)
		i := slices.IndexFunc(a.Nodes(), func(n Node) bool { return n.ID == b.Self().ID })
		if n := a.Nodes()[i]; n.Load != 1500 || n.Address != "other:2" || n.HTTP != "other:3" || !closed(news) {
			t.Errorf("load %d, address %q, announced %v", n.Load, n.Address, closed(news))
		}
	})
}

func TestDeath(t *testing.T) {
	onTables(t, func(t *testing.T, w *world) {
		a, b := w.join("rooms"), w.join("rooms")
		w.pass(5, a, b)
		w.beats(a) // sees the last beat of b
		w.pass(4, a)
		w.wantLive(a, "0 1") // not longer ago than DeadAfter
		w.now++
		news := a.Changed()
		w.beats(a)
		w.wantLive(a, "0")
		if !closed(news) || share(a) != keyCount {
			t.Errorf("announced: %v; %d keys owned", closed(news), share(a))
		}
		for _, s := range a.All() {
			if dead := s.ID == b.Self().ID; s.Live == dead || dead && s.Seen != 4*time.Second+1 || !dead && s.Seen != 0 {
				t.Errorf("status %+v", s)
			}
		}
		// Its row goes after RemoveAfter and not before.
		w.pass(55, a)
		if w.now += time.Second - 1; len(a.All()) != 2 {
			t.Error("the row is gone too early")
		}
		w.beats(a)
		w.now++
		w.beats(a, a)
		if len(a.All()) != 1 {
			t.Error("the row stays")
		}
	})
}

func TestLeave(t *testing.T) {
	onTables(t, func(t *testing.T, w *world) {
		a, b := w.join("rooms"), w.join("rooms")
		w.pass(4, a, b)
		w.wantOneOwner(a, b)
		newsA, newsB := a.Changed(), b.Changed()
		if err := b.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if share(b) != 0 || !b.Self().Leaving || !closed(newsB) {
			t.Errorf("after Drain %d keys are owned, announced: %v", share(b), closed(newsB))
		}
		w.beats(a)
		w.wantLive(a, "0 1") // it still answers what it is asked
		w.wantOneOwner(a, b)
		if share(a) != keyCount || !closed(newsA) {
			t.Errorf("the other owns %d keys, announced: %v", share(a), closed(newsA))
		}
		w.pass(10, a, b)
		w.wantOneOwner(a, b)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
		w.beats(a)
		w.wantLive(a, "0")
		if len(a.All()) != 1 {
			t.Errorf("nodes %+v", a.All())
		}
		if err := b.beat(t.Context()); !errors.Is(err, ErrLeft) {
			t.Errorf("a beat after the end: %v", err)
		}
		if err := errors.Join(b.Drain(t.Context()), b.Drain(t.Context())); err != nil {
			t.Errorf("Drain after the end: %v", err)
		}
		// Who joins beside one that leaves waits for nobody.
		if err := a.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c := w.join("rooms"); share(c) != keyCount {
			t.Errorf("the only one that stays owns %d keys", share(c))
		}
	})
}

// A clock that jumps on one node costs that node a beat, and the others nothing.
func TestClockJumps(t *testing.T) {
	onTables(t, func(t *testing.T, w *world) {
		a, b := w.join("rooms"), w.join("rooms")
		w.pass(4, a, b)
		b.jump = time.Minute
		if share(b) != 0 {
			t.Error("the lease outlived a minute")
		}
		w.beats(b)
		w.wantLive(b, "0 1")
		w.beats(a)
		w.wantLive(a, "0 1")
		w.pass(4, a, b)
		w.wantOneOwner(a, b)
	})
}

func metric(t *testing.T, c *Cluster, name string) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	if err := c.Register(reg); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestDatabaseFails(t *testing.T) {
	for name, fail := range map[string]func(n *node, down bool){
		"write": func(n *node, down bool) { n.db.putFails = down },
		"read":  func(n *node, down bool) { n.db.listFails = down },
	} {
		t.Run(name, func(t *testing.T) {
			onTables(t, func(t *testing.T, w *world) {
				a, b := w.join("rooms"), w.join("rooms")
				log, hook := logtest.NewNullLogger()
				a.cfg.Log = log
				w.pass(4, a, b)
				w.beats(a) // has seen the last of b
				mine := share(a)
				try := func(n *node) {
					if err := n.beat(t.Context()); !errors.Is(err, errDown) {
						t.Errorf("beat: %v", err)
					}
				}
				fail(a, true)
				fail(b, true)
				news := a.Changed()
				for range 2 {
					w.now += time.Second
					try(a)
					try(b)
				}
				if w.now += time.Second - 1; share(a) != mine || closed(news) {
					t.Error("the lease ended early")
				}
				if w.now++; share(a) != 0 {
					t.Error("the lease did not end")
				}
				for range 30 {
					try(a)
					try(b)
					w.now += time.Second
				}
				if !closed(news) {
					t.Error("the loss is not announced")
				}
				if n := len(hook.AllEntries()); n != 2 {
					t.Errorf("%d log entries for an outage, want 2: it began, the lease is lost", n)
				}
				// It is over. Nobody is dead: nobody could be seen.
				fail(a, false)
				w.beats(a)
				w.wantLive(a, "0 1")
				fail(b, false)
				w.beats(b)
				w.wantLive(b, "0 1")
				w.pass(4, a, b)
				w.wantOneOwner(a, b)
				if share(a) != mine {
					t.Errorf("%d keys owned after the outage, %d before", share(a), mine)
				}
				if n := len(hook.AllEntries()); n != 3 || hook.LastEntry().Level != logrus.InfoLevel {
					t.Errorf("%d log entries in the end, want 3", n)
				}
				for name, want := range map[string]float64{"weft_cluster_nodes": 2, "weft_cluster_leases_lost_total": 1,
					"weft_cluster_heartbeat_failures_total": 32, "weft_cluster_heartbeat_seconds": 1 + 5 + 1 + 4} {
					if got := metric(t, a.Cluster, name); got != want {
						t.Errorf("%s is %v, want %v", name, got, want)
					}
				}
			})
		})
	}
}

// A heartbeat that takes its time is not held against others, and not in favour of the own lease.
func TestSlowHeartbeat(t *testing.T) {
	w := newWorld(t, &memory{rows: map[string]row{}}, time.Minute)
	a, b := w.join("rooms"), w.join("rooms")
	// slow is a heartbeat of a that takes 3.5 s before it reads, or after.
	slow := func(before, after time.Duration) {
		t.Helper()
		start := a.elapsed()
		if err := a.write(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.now += before
		w.beats(b)
		rows, err := a.table.list(t.Context())
		w.now += after
		if err = errors.Join(err, a.accept(start, a.elapsed(), rows)); err != nil {
			t.Fatal(err)
		}
	}
	w.pass(4, a, b)
	w.beats(a)
	if share(a) == 0 {
		t.Fatal("no lease")
	}
	slow(0, 3500*time.Millisecond)
	if share(a) != 0 {
		t.Error("the lease is counted from the end of the heartbeat")
	}
	w.beats(b, a)
	if share(a) == 0 {
		t.Error("to be late for less than DeadAfter costs more than the lease")
	}
	// b is seen at the end of a heartbeat, and its silence counted to the start of another.
	slow(3500*time.Millisecond, 0)
	for range 2 {
		w.now += 2 * time.Second
		w.beats(a)
	}
	w.wantLive(a, "0 1")
	w.beats(b, a)
	w.now += 2 * time.Second
	start := a.elapsed()
	rows, _ := a.table.list(t.Context())
	w.now += 3 * time.Second
	if err := a.accept(start, a.elapsed(), rows); err != nil {
		t.Fatal(err)
	}
	w.wantLive(a, "0 1")
}

func TestRemoveSparesWhoCameBack(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := openWorld(t, open(), 0)
		a, b := w.join("rooms"), w.join("rooms")
		rows, err := w.table.list(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w.beats(b)
		if err := w.table.remove(t.Context(), rows); err != nil {
			t.Fatal(err)
		}
		rows, err = w.table.list(t.Context())
		if err != nil || len(rows) != 1 || rows[0].ID != b.Self().ID {
			t.Errorf("rows %+v (%v)", rows, err)
		}
		// a adds its row again, and owns nothing until b knows, also when it takes two attempts.
		a.db.listFails = true
		if err := a.beat(t.Context()); !errors.Is(err, errDown) {
			t.Error(err)
		}
		a.db.listFails = false
		w.beats(a, b)
		w.wantLive(b, "0 1")
		if share(a) != 0 {
			t.Error("a node whose row was missing owns keys at once")
		}
		w.pass(4, a, b)
		w.wantOneOwner(a, b)
	})
}

func fill(t *testing.T, tb table, n int) {
	t.Helper()
	for i := range n {
		r := row{Node: Node{ID: fmt.Sprintf("f%031d", i), Components: []string{"rooms"}}, beat: 1}
		if _, err := tb.put(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMoreNodesThanTheBound(t *testing.T) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := openWorld(t, open(), 0)
		a := w.join("rooms")
		fill(t, w.table, MaxNodes-1)
		w.beats(a)
		if n := len(a.Nodes()); n != MaxNodes {
			t.Errorf("%d nodes", n)
		}
		fill(t, w.table, MaxNodes)
		err := a.beat(t.Context())
		if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "256") {
			t.Errorf("one too many: %v", err)
		}
		// The dead among them are removed all the same.
		for range 62 {
			w.now += time.Second
			err = a.beat(t.Context())
		}
		if err != nil || len(a.Nodes()) != 1 {
			t.Errorf("%d nodes (%v)", len(a.Nodes()), err)
		}
	})
}

func TestJoinWhereThereIsNoRoom(t *testing.T) {
	for _, alive := range []bool{true, false} {
		t.Run(fmt.Sprintf("alive=%v", alive), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memory{rows: map[string]row{}}
				fill(t, m, MaxNodes)
				cfg := Config{Components: []string{"rooms"}}
				if err := cfg.check(); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				c, err := join(t.Context(), newCluster(cfg, &busy{memory: m, alive: alive}))
				took := time.Since(began)
				if alive && (!errors.Is(err, ErrFull) || took > 10*time.Second || len(m.rows) != MaxNodes) {
					t.Errorf("after %v: %v", took, err)
				}
				if !alive && (err != nil || took < time.Minute || took > 63*time.Second || len(c.Nodes()) != 1) {
					t.Errorf("after %v: %v, %d nodes", took, err, len(m.rows))
				}
			})
		})
	}
}

// busy is a table whose other nodes beat whenever one looks.
type busy struct {
	*memory
	alive bool
}

func (b *busy) list(ctx context.Context) ([]row, error) {
	for id, r := range b.rows {
		if b.alive {
			r.beat++
			b.rows[id] = r
		}
	}
	return b.memory.list(ctx)
}

func TestConfig(t *testing.T) {
	db := new(sqldb.DB)
	long := strings.Repeat("a", 1025)
	for name, tc := range map[string]struct {
		cfg  Config
		want string
	}{
		"no database":     {Config{}, "no database"},
		"beat":            {Config{DB: db, Beat: 3 * time.Second}, "beat 3s"},
		"negative":        {Config{DB: db, Beat: -1}, "beat -1ns"},
		"lease":           {Config{DB: db, LeaseTime: 4 * time.Second}, "lease time 4s"},
		"dead":            {Config{DB: db, DeadAfter: time.Minute}, "dead after 1m"},
		"address":         {Config{DB: db, Address: long[:301]}, "address has 301 bytes"},
		"address's bytes": {Config{DB: db, Address: "a\x00"}, "not printable"},
		"version":         {Config{DB: db, Version: long[:129]}, "version has 129 bytes"},
		"components":      {Config{DB: db, Components: []string{long}}, "components has 1025 bytes"},
		"comma":           {Config{DB: db, Components: []string{"a,b"}}, `"a,b" is no name`},
	} {
		if _, err := Join(t.Context(), tc.cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestSingle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // fails when a goroutine is left
		c := Single([]string{"rooms"})
		news := c.Changed()
		time.Sleep(time.Hour)
		n, ok := c.Owner("rooms", "k")
		if !c.Owns("rooms", "k") || !c.Owns("keys", "") || !ok || n.ID != c.Self().ID || len(c.Nodes()) != 1 {
			t.Errorf("it does not own everything: %+v", n)
		}
		if all := c.All(); len(all) != 1 || !all[0].Live || all[0].Seen != 0 {
			t.Errorf("status %+v", all)
		}
		if err := c.Drain(t.Context()); err != nil || closed(news) || !c.Owns("rooms", "k") {
			t.Errorf("drain: %v", err)
		}
		if err := c.SetAddress(t.Context(), "h:1", ""); err != nil || c.Self().Address != "h:1" || !closed(news) {
			t.Errorf("address: %v", err)
		}
		if got := metric(t, c, "weft_cluster_nodes"); got != 1 {
			t.Errorf("%v nodes", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := c.Run(ctx); err != nil || c.Register(nil) != nil {
			t.Error(err)
		}
	})
}

// Run beats by the timer, goes on while the database is closed, and leaves no row.
// stuck is a table whose database has taken a statement and says nothing more.
type stuck struct {
	table
	free chan struct{}
}

func (s stuck) put(ctx context.Context, r row) (bool, error) {
	<-s.free
	return s.table.put(ctx, r)
}

func TestDrainDoesNotWaitForAHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, &memory{rows: map[string]row{}}, 0)
		a := w.join("rooms")
		hanging := stuck{a.table, make(chan struct{})}
		a.table = hanging
		ended := make(chan error, 1)
		go func() { ended <- a.beat(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := a.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		if share(a) != 0 || !a.Self().Leaving {
			t.Error("it owns something")
		}
		if err := a.SetAddress(ctx, "b:1", "b:2"); !errors.Is(err, context.DeadlineExceeded) || a.Self().Address != "b:1" {
			t.Errorf("%v, address %q", err, a.Self().Address)
		}
		began = time.Now()
		a.leave(t.Context())
		if took := time.Since(began); took != leaveTime {
			t.Errorf("it took %s to leave", took)
		}
		close(hanging.free)
		if err := <-ended; !errors.Is(err, ErrLeft) || share(a) != 0 {
			t.Errorf("the heartbeat ended with %v", err)
		}
	})
}

func TestRun(t *testing.T) {
	url := sqldbtest.SQLiteURL(t)
	synctest.Test(t, func(t *testing.T) {
		open := func() *sqldb.DB {
			db, err := sqldb.Open(t.Context(), url, sqldb.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return db
		}
		db := open()
		defer db.Close()
		if err := Migrate(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		dbB := open()
		a, errA := Join(t.Context(), Config{DB: db, Components: []string{"rooms"}})
		b, errB := Join(t.Context(), Config{DB: dbB, Components: []string{"rooms"}})
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() { ended <- a.Run(ctx) }()
		go func() { ended <- b.Run(ctx) }()
		time.Sleep(10 * time.Second)
		if len(a.Nodes()) != 2 || len(b.Nodes()) != 2 {
			t.Errorf("%d and %d nodes", len(a.Nodes()), len(b.Nodes()))
		}
		if err := dbB.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		own := 0
		for i := range keyCount {
			if b.Owns("rooms", key(i)) {
				t.Fatal("a node without a database owns keys")
			}
			if a.Owns("rooms", key(i)) {
				own++
			}
		}
		if len(a.Nodes()) != 1 || own != keyCount {
			t.Errorf("%d nodes, %d keys owned", len(a.Nodes()), own)
		}
		cancel()
		if err := errors.Join(<-ended, <-ended); err != nil {
			t.Error(err)
		}
		rows, err := sqlTable{db}.list(t.Context())
		if err != nil || len(rows) != 1 || rows[0].ID != b.Self().ID {
			t.Errorf("rows in the end: %+v (%v)", rows, err)
		}
	})
}
