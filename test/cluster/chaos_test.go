package cluster

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	chaosNodes   = 5
	chaosRooms   = 10
	chaosPerRoom = 5
	chaosEvery   = 5 * time.Second        // a new fault
	chaosAtOnce  = 2                      // nodes with a fault, at most
	chaosPace    = 500 * time.Millisecond // between two operations of a client
	chaosLoud    = 6 * time.Second        // what a request may take without being named
)

// fault is what happens to one node. It returns when the node is whole again, with what went wrong about it.
type fault struct {
	name   string
	happen func(c *cluster, n *node, lasts time.Duration) error
}

func faults() []fault {
	return []fault{
		{"killed, started again", func(_ *cluster, n *node, _ time.Duration) error {
			n.kill()
			n.launch()
			return n.awaitErr()
		}},
		{"stopped, started again", func(_ *cluster, n *node, _ time.Duration) error {
			n.stop()
			n.launch()
			return n.awaitErr()
		}},
		{"frozen", func(_ *cluster, n *node, lasts time.Duration) error {
			n.signal(syscall.SIGSTOP)
			last(lasts)
			n.signal(syscall.SIGCONT)
			return nil
		}},
		{"cut from the database", func(_ *cluster, n *node, lasts time.Duration) error {
			n.database.setCut(true)
			last(lasts)
			n.database.setCut(false)
			return nil
		}},
		{"cut from the other nodes", func(c *cluster, n *node, lasts time.Duration) error {
			c.cutOff(n, true)
			last(lasts)
			c.cutOff(n, false)
			return nil
		}},
		{"slow", func(_ *cluster, n *node, lasts time.Duration) error {
			stop := n.throttle()
			last(lasts)
			stop()
			return nil
		}},
	}
}

// Random faults for as long as one likes, and everything that was acknowledged is looked for in the end.
func TestChaos(t *testing.T) {
	if *chaos <= 0 {
		t.Skip("run by make chaos")
	}
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: -chaos-seed makes the same faults again", seed)
	c := newStormy(t, chaosNodes, "")
	c.start()
	b := newBalancer(t, c.nodes)
	w := newWorkload(t, []*node{b.front}, chaosRooms, chaosPerRoom)
	w.mixed()
	w.pace, w.c.loud = chaosPace, chaosLoud
	w.figures()
	var summary string
	under(t, c, w, func(context.Context) {
		var made map[string]int
		began := time.Now()
		w.c.during(func() {
			made = makeFaults(t, c, rand.New(rand.NewPCG(seed, 0)), *chaos)
			for _, n := range c.nodes {
				b.awaitUp(t, n)
			}
		})
		summary = w.summary(b, made, time.Since(began))
	})
	t.Logf("all that was acknowledged was looked for\n%s", summary)
}

// makeFaults makes faults for a time, and heals all. It counts them by name.
func makeFaults(t *testing.T, c *cluster, random *rand.Rand, during time.Duration) map[string]int {
	t.Helper()
	kinds, made := faults(), map[string]int{}
	end := time.After(during)
	tick := time.NewTicker(chaosEvery)
	defer tick.Stop()
	var mu sync.Mutex
	ill := map[*node]bool{}
	var healing sync.WaitGroup
	defer healing.Wait()
	var round []int // the kinds in a random order, so that a short run has all
	for began := time.Now(); ; {
		select {
		case <-tick.C:
		case <-end:
			return made
		}
		if len(round) == 0 {
			round = random.Perm(len(kinds))
		}
		kind, first := kinds[round[0]], random.IntN(len(c.nodes))
		lasts := time.Second + time.Duration(random.Int64N(int64(7*time.Second)))
		n := pick(c, first, func(n *node) bool {
			mu.Lock()
			defer mu.Unlock()
			free := !ill[n] && len(ill) < chaosAtOnce
			if free {
				ill[n] = true
			}
			return free
		})
		if n == nil {
			continue
		}
		round = round[1:]
		made[kind.name]++
		t.Logf("%5.1f s: %s %s (%s)", time.Since(began).Seconds(), n.name, kind.name, short(lasts))
		healing.Go(func() {
			if err := kind.happen(c, n, lasts); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			delete(ill, n)
		})
	}
}

// pick gives the first node from one on that is taken; nil: none.
func pick(c *cluster, first int, take func(n *node) bool) *node {
	for i := range c.nodes {
		if n := c.nodes[(first+i)%len(c.nodes)]; take(n) {
			return n
		}
	}
	return nil
}

// summary tells what was done and what clients saw, as docs/reliability.md has it.
func (w *workload) summary(b *balancer, made map[string]int, took time.Duration) string {
	times, mine := w.c.figures()
	w.mu.Lock()
	delays, messages, told := w.delays, 0, 0
	for _, list := range w.acked {
		messages += len(list)
	}
	for _, n := range w.told {
		told += n
	}
	w.mu.Unlock()
	var longest []time.Duration
	for _, u := range w.users {
		longest = append(longest, mine[u.token])
	}
	var out strings.Builder
	row := func(what, format string, args ...any) {
		fmt.Fprintf(&out, "| %s | "+format+" |\n", append([]any{what}, args...)...)
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(made)) {
		total += made[name]
	}
	row("duration", "%s, %d nodes, %d clients", took.Round(time.Second), chaosNodes, len(w.users))
	row("faults", "%d", total)
	for _, name := range slices.Sorted(maps.Keys(made)) {
		row("· "+name, "%d", made[name])
	}
	row("acknowledged", "%d messages, %d to-device messages, %d one-time keys", messages, told, len(w.claimed))
	row("requests", "%d, of which repeated after an error: %d times; broken by a node: %d", len(times), w.c.repeated.Load(), b.broken.Load())
	row("a request with its repetitions", "p50 %s, p99 %s, longest %s", short(quantile(times, 0.5)), short(quantile(times, 0.99)), short(quantile(times, 1)))
	row("longest outage that each client saw", "least %s, median %s, p90 %s, most %s", short(quantile(longest, 0)), short(quantile(longest, 0.5)),
		short(quantile(longest, 0.9)), short(quantile(longest, 1)))
	row("a message to another client's /sync", "p50 %s, p99 %s, longest %s", short(quantile(delays, 0.5)), short(quantile(delays, 0.99)), short(quantile(delays, 1)))
	return out.String()
}
