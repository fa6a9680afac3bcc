package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
)

// under runs the load while weather happens, and checks it then.
func under(t *testing.T, c *cluster, w *workload, weather func(ctx context.Context)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run(ctx)
	}()
	weather(ctx)
	cancel()
	<-done
	w.check()
}

// sent waits until so many more messages were acknowledged.
func (w *workload) sent(more int) {
	w.t.Helper()
	count := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		n := 0
		for _, list := range w.acked {
			n += len(list)
		}
		return n
	}
	target := count() + more
	until(w.t, 2*time.Minute, fmt.Sprintf("%d messages", target), func() bool { return count() >= target })
}

// status asks the command line who is there.
func (c *cluster) status() (list []struct{ ID, State string }) {
	c.t.Helper()
	out, err := exec.Command(binary, "cluster", "status", "--json", "--database", c.database).Output()
	must(c.t, err)
	var s struct {
		Nodes []struct{ ID, State string }
	}
	must(c.t, json.Unmarshal(out, &s))
	return s.Nodes
}

// A further process needs nothing but the database: it takes the server's name, its settings and its signing key from there.
func TestJoinByTheDatabaseAlone(t *testing.T) {
	c := newCluster(t, 1)
	nameless := c.addWith()
	nameless.launch()
	<-nameless.exited
	if nameless.result == nil || !strings.Contains(nameless.log.String(), "server_name") {
		t.Fatalf("a process that knows no server's name: %v\n%s", nameless.result, nameless.log.String())
	}
	c.nodes[0].start()
	began := time.Now()
	nameless.start()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("joining took %s", took)
	}
	w := &workload{t: t, c: newClient(t, c.nodes[1:])}
	u := w.register(t.Context(), "ann")
	if u.id != "@ann:"+serverName {
		t.Errorf("the second process made %s", u.id)
	}
	const picture = `{"of":"the first process"}`
	up, err := w.c.once(t.Context(), c.nodes[0], "POST", "/_matrix/media/v3/upload", u.token, []byte(picture))
	must(t, err)
	at := strings.TrimPrefix(up.body.Get("content_uri").Str, "mxc://")
	down, err := w.c.once(t.Context(), nameless, "GET", "/_matrix/client/v1/media/download/"+at, u.token, nil)
	must(t, err)
	if down.status != 200 || down.body.Raw != picture {
		t.Errorf("media of the first process: %d %s, then %d %s", up.status, up.body.Raw, down.status, down.body.Raw)
	}
	var keys []string
	for _, n := range c.nodes {
		a, err := w.c.once(t.Context(), n, "GET", "/_matrix/key/v2/server", "", nil)
		must(t, err)
		keys = append(keys, a.body.Get("verify_keys").Raw)
	}
	if keys[0] == "" || keys[0] != keys[1] {
		t.Errorf("signing keys %v", keys)
	}
	other := c.addWith("--server-name", "other.localhost")
	other.launch()
	if <-other.exited; !strings.Contains(other.log.String(), "belongs to the server "+serverName) {
		t.Errorf("a process of another server: %s", other.log.String())
	}
	if list := c.status(); len(list) != 2 || list[0].State != "live" || list[1].State != "live" {
		t.Errorf("the cluster is %v", list)
	}
	nameless.stop()
	if list := c.status(); len(list) != 1 || list[0].State != "live" {
		t.Errorf("after one stopped the cluster is %v", list)
	}
}

// Nodes are killed, stopped in order and frozen while clients work: the short version of what make test-cluster does.
func TestWeather(t *testing.T) {
	c := newCluster(t, 3)
	c.start()
	b := newBalancer(t, c.nodes)
	w := newWorkload(t, []*node{b.front}, 4, 3)
	w.mixed()
	under(t, c, w, func(context.Context) {
		w.sent(100)
		c.nodes[0].kill()
		c.nodes[0].start()
		w.sent(50)
		c.nodes[1].stop()
		c.nodes[1].start()
		b.awaitUp(t, c.nodes[0])
		c.nodes[2].signal(syscall.SIGSTOP)
		until(t, time.Minute, "the frozen node to be counted out", func() bool { return c.live() < 3 })
		w.sent(50)
		c.nodes[2].signal(syscall.SIGCONT)
		b.awaitUp(t, c.nodes[2])
		w.sent(50)
	})
}

// The longest that a request may take which is repeated until it succeeds, when a node is killed, and when one is frozen in the
// middle of a transaction. In the second case the balancer needs up to 2.5 s to break the request, which then waits for rows that the
// frozen transaction has locked, until the database ends that after 4 s.
const (
	killLimit   = 6 * time.Second
	freezeLimit = 9 * time.Second
)

// Behind a balancer with health checks clients see no error when a node is stopped, and go on soon when one is killed or frozen.
func TestWeatherBehindABalancer(t *testing.T) {
	long(t)
	c := newCluster(t, 3)
	c.start()
	b := newBalancer(t, c.nodes)
	w := newWorkload(t, []*node{b.front}, 4, 3)
	db := sqldbtest.Open(t, c.database)
	under(t, c, w, func(context.Context) {
		w.sent(100)
		for _, n := range c.nodes {
			worst, repeated, met := w.c.during(func() {
				n.stop()
				w.sent(100)
			})
			t.Logf("%s stopped: longest %s, %d repeated, %d refused", n.name, worst, repeated, b.refused.Load())
			if repeated > 0 || b.broken.Load() > 0 {
				t.Errorf("%s stopped: %d errors of nodes, clients saw %q", n.name, b.broken.Load(), met)
			}
			n.start()
			b.awaitUp(t, n)
			w.sent(100)
		}
		worst, repeated, _ := w.c.during(func() {
			c.nodes[0].kill()
			w.sent(200)
		})
		t.Logf("killed: longest %s, %d repeated", worst, repeated)
		if worst > killLimit {
			t.Errorf("killed: a request took %s", worst)
		}
		c.nodes[0].start()
		b.awaitUp(t, c.nodes[0])
		w.sent(100)
		worst, repeated, _ = w.c.during(func() {
			c.nodes[1].freeze(db)
			w.sent(200)
			until(t, time.Minute, "the transactions of the frozen node to end", func() bool {
				return c.nodes[1].sessions(db, "state <> 'idle'", "0 s") == 0
			})
		})
		t.Logf("frozen: longest %s, %d repeated", worst, repeated)
		if worst > freezeLimit {
			t.Errorf("frozen: a request took %s", worst)
		}
		c.nodes[1].signal(syscall.SIGCONT)
		b.awaitUp(t, c.nodes[1])
		w.sent(200)
	})
}

// freeze stops a node in the middle of a transaction.
func (n *node) freeze(db *sqldb.DB) {
	n.t.Helper()
	for range 100 {
		n.signal(syscall.SIGSTOP)
		caught := false
		until(n.t, time.Minute, "the database to see that "+n.name+" is frozen", func() bool {
			caught = n.sessions(db, "state LIKE 'idle in transaction%'", "100 ms") > 0
			return caught || n.sessions(db, "state <> 'idle'", "0 s") == 0
		})
		if caught {
			return
		}
		n.signal(syscall.SIGCONT)
	}
	n.t.Fatalf("%s was never in a transaction", n.name)
}

// sessions counts sessions of a node that are of a kind since a while.
func (n *node) sessions(db *sqldb.DB, kind, since string) (count int) {
	n.t.Helper()
	must(n.t, db.QueryRow(context.Background(), `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1
		AND state_change <= clock_timestamp() - CAST($2 AS INTERVAL) AND `+kind, n.name, since).Scan(&count))
	return count
}

// Clients that go from node to node by themselves, and repeat on the next what one does not take or answer.
func TestWeatherWithoutABalancer(t *testing.T) {
	long(t)
	c := newCluster(t, 3)
	c.start()
	w := newWorkload(t, c.nodes, 4, 3)
	under(t, c, w, func(context.Context) {
		w.sent(100)
		for _, fault := range []struct {
			name   string
			happen func()
		}{{"stopped", c.nodes[0].stop}, {"killed", c.nodes[1].kill}} {
			worst, repeated, met := w.c.during(func() {
				fault.happen()
				w.sent(200)
			})
			t.Logf("%s: longest %s, %d repeated, the last because of %q", fault.name, worst, repeated, met)
			if worst > killLimit {
				t.Errorf("%s: a request took %s", fault.name, worst)
			}
			for _, n := range c.nodes {
				if !n.running() {
					n.start()
				}
			}
		}
	})
}

// Who does not want to wait for balancers says so by a second signal.
func TestSecondSignalStopsAtOnce(t *testing.T) {
	c := newCluster(t, 2)
	c.start()
	b := newBalancer(t, c.nodes)
	n := c.nodes[0]
	n.signal(syscall.SIGTERM)
	until(t, time.Minute, n.name+" to be taken out", func() bool { return b.nodes[0].session() == nil })
	if !n.running() {
		t.Fatal("it did not wait for the balancer")
	}
	n.signal(syscall.SIGTERM)
	began := time.Now()
	<-n.exited
	if took := time.Since(began); took > shutdownDelay/2 {
		t.Errorf("it went on for %s", took)
	}
}

func TestThreeEqualNodes(t *testing.T) {
	c := newCluster(t, 3)
	c.start() // all at once, on an empty database
	w := newWorkload(t, c.nodes, 4, 3)
	under(t, c, w, func(context.Context) { w.sent(1000) })
}

func TestNamesAndKeysAreGivenOnce(t *testing.T) {
	c := newCluster(t, 3)
	c.start()
	w := newWorkload(t, c.nodes, 1, 2)
	ctx := t.Context()
	var mu sync.Mutex
	given := map[string]int{}
	var wg sync.WaitGroup
	for name := range 20 {
		for i := range 6 {
			wg.Go(func() {
				body := fmt.Sprintf(`{"username":"same%d","password":"secret-%d","auth":{"type":"m.login.dummy"}}`, name, i)
				a, err := w.c.once(ctx, c.nodes[i%3], "POST", "/_matrix/client/v3/register", "", []byte(body))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if a.status == 200 {
					given[a.body.Get("user_id").Str]++
				} else if code := a.body.Get("errcode").Str; code != "M_USER_IN_USE" && code != "M_LIMIT_EXCEEDED" {
					t.Errorf("register: %d %s", a.status, a.body.Raw)
				}
			})
		}
	}
	wg.Wait()
	for user, n := range given {
		if n != 1 {
			t.Errorf("%s was given %d times", user, n)
		}
	}
	owner := w.users[0]
	const keys = 60
	body := `{"one_time_keys":{`
	for i := range keys {
		if i > 0 {
			body += ","
		}
		body += fmt.Sprintf(`"signed_curve25519:%d":{"key":"k%d"}`, i, i)
	}
	_, err := w.c.ok(ctx, "POST", "/_matrix/client/v3/keys/upload", owner.token, body+`}}`)
	must(t, err)
	claimed := map[string]int{}
	for i := range keys + 12 {
		wg.Go(func() {
			body := fmt.Sprintf(`{"one_time_keys":{%q:{%q:"signed_curve25519"}}}`, owner.id, owner.device)
			a, err := w.c.once(ctx, c.nodes[i%3], "POST", "/_matrix/client/v3/keys/claim", w.users[1].token, []byte(body))
			if err != nil || a.status != 200 {
				t.Errorf("claim: %v %s", err, a.body.Raw)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for k := range a.body.Get("one_time_keys." + gjsonPath(owner.id) + "." + gjsonPath(owner.device)).Map() {
				claimed[k]++
			}
		})
	}
	wg.Wait()
	if len(claimed) != keys {
		t.Errorf("%d keys were claimed, want %d", len(claimed), keys)
	}
	for k, n := range claimed {
		if n != 1 {
			t.Errorf("%s was claimed %d times", k, n)
		}
	}
}
