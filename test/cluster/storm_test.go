package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/sqldb/pgtest"
	"weft/internal/sqldb/sqldbtest"
)

// storm is a cluster behind a balancer with a load, for one kind of weather.
type storm struct {
	t *testing.T
	c *cluster
	b *balancer
	w *workload
}

// newStorm starts the nodes of a cluster and puts a mixed load on them. It checks all at the end of weather.
func newStorm(t *testing.T, c *cluster, weather func(s *storm)) {
	t.Helper()
	c.start()
	s := &storm{t: t, c: c, b: newBalancer(t, c.nodes)}
	s.w = newWorkload(t, []*node{s.b.front}, 4, 3)
	s.w.mixed()
	under(t, c, s.w, func(context.Context) {
		s.w.sent(100)
		weather(s)
		for _, n := range c.nodes {
			if n.running() {
				s.b.awaitUp(t, n)
			}
		}
		s.see("afterwards", 0, func() { s.w.sent(200) })
	})
}

// see makes weather and reports what clients saw of it: no request may have taken longer than limit, where there is one.
func (s *storm) see(what string, limit time.Duration, happen func()) {
	s.t.Helper()
	s.w.figures()
	broken := s.b.broken.Load()
	worst, repeated, met := s.w.c.during(happen)
	took, delays := s.w.figures()
	s.t.Logf("| %s | %s | %s | %s | %d of %d | %d | %s | %s |", what, short(quantile(took, 0.5)), short(quantile(took, 0.99)), short(worst),
		repeated, len(took), s.b.broken.Load()-broken, short(quantile(delays, 0.99)), short(quantile(delays, 1)))
	if len(met) > 0 {
		s.t.Logf("the last errors: %.600q", met[max(0, len(met)-3):])
	}
	if limit > 0 && worst > limit {
		s.t.Errorf("%s: a request took %s, more than %s", what, worst, limit)
	}
}

// figures tells how long requests took and messages travelled since the last call.
func (w *workload) figures() (took, delays []time.Duration) {
	took, _ = w.c.figures()
	w.mu.Lock()
	defer w.mu.Unlock()
	delays, w.delays = w.delays, nil
	return took, delays
}

// quantile gives the time that a part of the list is not above.
func quantile(list []time.Duration, part float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[int(part*float64(len(list)-1))]
}

// short is a time as a table has it.
func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// last lets a fault last.
func last(d time.Duration) { <-time.After(d) }

// live counts the nodes that live, as a node that is none of them sees it.
func (c *cluster) live() (n int) {
	for _, one := range c.status() {
		if one.State == "live" {
			n++
		}
	}
	return n
}

// says waits until a node has logged something.
func (n *node) says(what string) {
	n.t.Helper()
	until(n.t, time.Minute, n.name+" to say "+what, func() bool { return strings.Contains(n.log.String(), what) })
}

// ownedNothing is what a node logs that could not write heartbeats for too long.
const ownedNothing = "this node owned nothing for a while"

// recovery is the longest that a request may take when one process of several fails in whatever way, and how much longer than a
// fault that all feel.
const recovery = 15 * time.Second

func TestFrozenForAMinute(t *testing.T) {
	long(t)
	newStorm(t, newCluster(t, 3), func(s *storm) {
		n := s.c.nodes[0]
		s.see("a node frozen for 60 s", recovery, func() {
			n.signal(syscall.SIGSTOP)
			last(time.Minute)
			n.signal(syscall.SIGCONT)
		})
		n.says(ownedNothing)
	})
}

// A node that the others cannot reach lives as far as the database can tell, and owns its share.
func TestCutBetweenNodes(t *testing.T) {
	long(t)
	newStorm(t, newStormy(t, 3, ""), func(s *storm) {
		n := s.c.nodes[0]
		s.see("a node cut from the others for 20 s", recovery, func() {
			s.c.cutOff(n, true)
			last(20 * time.Second)
		})
		s.c.cutOff(n, false)
		s.w.sent(100)
		s.see("all nodes cut from each other for 20 s", recovery, func() {
			for _, n := range s.c.nodes {
				s.c.cutOff(n, true)
			}
			last(20 * time.Second)
		})
		for _, n := range s.c.nodes {
			s.c.cutOff(n, false)
		}
	})
}

func TestCutFromTheDatabase(t *testing.T) {
	long(t)
	newStorm(t, newStormy(t, 3, ""), func(s *storm) {
		n := s.c.nodes[0]
		s.see("a node cut from the database for 20 s", recovery, func() {
			n.database.setCut(true)
			last(20 * time.Second)
		})
		n.database.setCut(false)
		n.says(ownedNothing)
		s.b.awaitUp(t, n)
		s.w.sent(100)
		s.see("a node's connections to the database refused for 10 s", recovery, func() {
			n.database.setPulled(true)
			last(10 * time.Second)
			n.database.setPulled(false)
		})
	})
}

func TestClockSkew(t *testing.T) {
	long(t)
	c := newCluster(t, 3)
	for i, skew := range []string{"1m", "-1m", ""} {
		c.nodes[i].inner = true
		c.nodes[i].env = []string{"WEFT_TEST_SKEW=" + skew}
	}
	newStorm(t, c, func(s *storm) {
		s.see("clocks two minutes apart", recovery, func() { s.w.sent(1000) })
		s.see("one of them killed", killLimit, func() {
			c.nodes[0].kill()
			s.w.sent(200)
		})
		c.nodes[0].start()
	})
}

// throttle lets a node run for a fifth of the time only, until the test calls stop.
func (n *node) throttle() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			n.signal(syscall.SIGSTOP)
			last(80 * time.Millisecond)
			n.signal(syscall.SIGCONT)
			select {
			case <-time.After(20 * time.Millisecond):
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

func TestSlowNode(t *testing.T) {
	long(t)
	newStorm(t, newStormy(t, 3, ""), func(s *storm) {
		n := s.c.nodes[0]
		s.see("a node with a fifth of its time for 20 s", recovery, func() {
			stop := n.throttle()
			last(20 * time.Second)
			stop()
		})
		// No bound: it holds rows for as many round trips as its transactions have, and the others wait for them.
		s.see("a node 100 ms from the database for 20 s", 0, func() {
			n.database.setDelay(50 * time.Millisecond)
			last(20 * time.Second)
			n.database.setDelay(0)
		})
	})
}

func TestDatabaseRestarted(t *testing.T) {
	long(t)
	pg := ownPostgres(t, pgtest.Options{Durable: true})
	c := newStormy(t, 3, pg.URL(nil))
	newStorm(t, c, func(s *storm) {
		for _, pause := range []time.Duration{0, 10 * time.Second} {
			s.see(fmt.Sprintf("the database crashed and was away for %s", pause), pause+recovery, func() {
				must(t, pg.Restart(pause))
				last(pause)
				s.w.sent(200)
			})
			s.w.sent(100)
		}
	})
}

// The primary dies, and 2 s later its standby takes its place, which had all commits (synchronous replication). Processes know both from the
// start.
func TestDatabaseFailover(t *testing.T) {
	long(t)
	pg := sqldbtest.NewReplicated(t)
	c := &cluster{t: t, database: pg.URL()}
	for range 3 {
		c.add()
	}
	newStorm(t, c, func(s *storm) {
		pg.Synchronous()
		s.w.sent(100)
		s.see("the database's standby takes over after 2 s", 2*time.Second+recovery, func() {
			pg.FailOver(2 * time.Second)
			s.w.sent(300)
		})
	})
}

// ownPostgres is a cluster of the test's own.
func ownPostgres(t *testing.T, o pgtest.Options) *pgtest.Cluster {
	t.Helper()
	pg, err := pgtest.Start(o)
	if err != nil {
		t.Skipf("needs PostgreSQL: %v", err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	return pg
}

func TestBusLostAndBack(t *testing.T) {
	long(t)
	newStorm(t, newStormy(t, 3, ""), func(s *storm) {
		s.see("all connections between nodes reset", recovery, func() {
			for _, n := range s.c.nodes {
				n.bus.reset()
				n.http.reset()
			}
			s.w.sent(200)
		})
		s.see("no connections between nodes for 15 s", recovery, func() {
			for _, n := range s.c.nodes {
				n.bus.setPulled(true)
				n.http.setPulled(true)
			}
			last(15 * time.Second)
		})
		for _, n := range s.c.nodes {
			n.bus.setPulled(false)
			n.http.setPulled(false)
		}
	})
}

func TestAllAtOnceOnAnEmptyDatabase(t *testing.T) {
	long(t)
	c := newCluster(t, 6)
	newStorm(t, c, func(s *storm) {
		until(t, time.Minute, "all nodes to live", func() bool { return c.live() == len(c.nodes) })
		s.see("six nodes started at once", recovery, func() { s.w.sent(500) })
	})
}

// An older program must not touch a database that a newer one has changed; those that run go on.
func TestOlderProgramMeetsNewerSchema(t *testing.T) {
	long(t)
	c := newCluster(t, 2)
	c.start()
	w := newWorkload(t, c.nodes, 1, 2)
	db := sqldbtest.Open(t, c.database)
	under(t, c, w, func(ctx context.Context) {
		for _, component := range []string{"eventstore", "cluster", "syncapi"} {
			_, err := db.Exec(ctx, `INSERT INTO goose_`+component+` (version_id, is_applied) VALUES (9999, TRUE)`)
			must(t, err)
			_, err = db.Exec(ctx, `UPDATE schema_needs SET oldest = 9999 WHERE component = $1`, component)
			must(t, err)
			old := c.add()
			old.launch()
			<-old.exited
			if out := old.log.String(); old.result == nil || !strings.Contains(out, "used by a newer program") || !strings.Contains(out, component) {
				t.Errorf("an older program: %v\n%s", old.result, out)
			}
			_, err = db.Exec(ctx, `DELETE FROM goose_`+component+` WHERE version_id = 9999`)
			must(t, err)
			_, err = db.Exec(ctx, `UPDATE schema_needs SET oldest = 1 WHERE component = $1`, component)
			must(t, err)
		}
		w.sent(20)
	})
	if n := c.live(); n != 2 {
		t.Errorf("%d nodes live", n)
	}
}

func TestBusDropsAThird(t *testing.T) {
	long(t)
	c := newCluster(t, 3)
	for _, n := range c.nodes {
		n.inner, n.env = true, []string{"WEFT_TEST_DROP=0.33"}
	}
	newStorm(t, c, func(s *storm) {
		s.see("a third of the bus messages dropped", recovery, func() { s.w.sent(1000) })
	})
}

// One process for each component, two for those that most goes through, each killed in its turn.
func TestComponentsApart(t *testing.T) {
	long(t)
	c := newCluster(t, 0)
	for _, component := range []string{"roomserver", "roomserver", "syncapi", "syncapi", "clientapi", "keyserver", "federationapi", "mediaapi"} {
		c.add("--components", component).name = fmt.Sprintf("n%d %s", len(c.nodes), component)
	}
	newStorm(t, c, func(s *storm) {
		s.see("one process for each component", recovery, func() { s.w.sent(300) })
		for _, i := range []int{0, 2, 4, 5} {
			n := c.nodes[i]
			s.see(n.name+" killed", recovery, func() {
				n.kill()
				n.start()
				s.w.sent(100)
			})
			s.b.awaitUp(t, n)
		}
	})
}
