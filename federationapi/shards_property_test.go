package federationapi

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/internal/bus"
	"weft/internal/stream"
	"weft/matrix/id"
)

// fleet runs several nodes over one database, and lets them believe anything
// about who has what.
type fleet struct {
	*machine
	nodes [3]*node
}

func (f *fleet) boot(i int, shards ...int) {
	limits := quickLimits()
	limits.Queue, limits.Page, limits.CatchUp = 4, 5, 1_000_000
	limits.Timeout = 20 * limits.MinBackoff
	var b bus.Bus = f.bus
	if i == 2 { // one that nobody hears
		b = deaf{f.bus}
	}
	f.nodes[i] = f.node(f.net, limits, b, shards...).start(f.world, false)
}

// end stops a node. One that dies says no last word.
func (f *fleet) end(i int, dies bool) {
	f.nodes[i].halt()
	if !dies {
		f.ok(f.nodes[i].out.leave(context.Background()))
	}
}

func (f *fleet) step(t *rapid.T) {
	i := rapid.IntRange(0, len(f.nodes)-1).Draw(t, "node")
	n, server := f.nodes[i], rapid.SampledFrom(servers).Draw(t, "server")
	shards := []int{shardOf(server)}
	if rapid.Bool().Draw(t, "all") {
		shards = allShards()
	}
	switch op := rapid.IntRange(0, 12).Draw(t, "op"); op {
	case 0, 1, 2, 3:
		r := rapid.SampledFrom(f.rooms).Draw(t, "room")
		f.want[r] = append(f.want[r], r.talk(rapid.IntRange(1, 12).Draw(t, "events"))...)
	case 4:
		f.n++
		f.edus[server] = append(f.edus[server], f.n)
		f.edu(n.Server, "m.direct_to_device", f.n, true, "", server)
	case 5:
		f.edu(n.Server, "m.typing", 0, false, "room", server)
	case 6:
		f.ok(n.DestinationAlive(context.Background(), server))
	case 7, 8:
		n.lots.set(true, op == 7, shards...)
	case 9:
		n.lots.set(false, rapid.Bool().Draw(t, "quiet"), shards...)
	case 10: // another node comes in its place
		f.end(i, rapid.Bool().Draw(t, "dies"))
		f.boot(i, shards...)
	default:
		f.mu.Lock()
		f.mode[server] = rapid.SampledFrom([]string{"", "", "down", "lost", "blocked", "picky"}).Draw(t, "mode")
		f.mu.Unlock()
	}
}

// settle divides the shards and lets everything recover.
func (f *fleet) settle(t *rapid.T) {
	f.mu.Lock()
	clear(f.mode)
	f.mu.Unlock()
	for i, n := range f.nodes {
		var mine, others []int
		for shard := range Shards {
			if shard%len(f.nodes) == i {
				mine = append(mine, shard)
			} else {
				others = append(others, shard)
			}
		}
		n.lots.set(false, false, others...)
		n.lots.set(true, false, mine...)
	}
	for _, server := range servers {
		var want []id.Event
		for r, events := range f.want {
			if slices.Contains(f.in[r], server) {
				want = append(want, events...)
			}
		}
		f.net.wait(f.t, fmt.Sprintf("%s has everything", server), func() bool {
			events, edus := f.arrived(server)
			for _, n := range f.edus[server] {
				if !slices.Contains(edus, fmt.Sprintf(`{"edu_type":"m.direct_to_device","content":{"n":%d}}`, n)) {
					return false
				}
			}
			return containsAll(events, want)
		})
		got, _ := f.arrived(server)
		for r, events := range f.want {
			first := slices.DeleteFunc(slices.Clone(got), func(e id.Event) bool { return !slices.Contains(events, e) })
			if slices.Contains(f.in[r], server) && !slices.Equal(first, events) {
				t.Fatalf("%s got the events of a room in another order", server)
			}
		}
	}
	pos, err := stream.Position(context.Background(), f.db, stream.Events)
	f.ok(err)
	eventually(f.t, "all is read and nothing is left in memory", func() bool {
		waiting := 0
		for _, n := range f.nodes {
			for _, server := range servers {
				f.ok(n.DestinationAlive(context.Background(), server))
			}
			waiting += n.waiting()
		}
		// A shard on its way from one node to another is in nobody's memory, but on disk.
		d := f.snapshot()
		return waiting == 0 && d.cursor == pos && len(d.behind) == 0 && len(d.edus) == 0
	})
	for i := range f.nodes {
		f.end(i, false)
	}
	if d := f.snapshot(); d.cursor != pos || len(d.behind) != 0 || len(d.edus) != 0 {
		t.Fatalf("left on disk: %+v, the stream is at %d", d, pos)
	}
}

// TestX_EverythingArrivesFromSeveralNodes: whoever believes to have which
// destinations, and whoever dies and comes back: every event and every durable
// EDU arrives, events of a room in its order.
func TestX_EverythingArrivesFromSeveralNodes(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		m := newMachine(w)
		rapid.Check(t, func(t *rapid.T) {
			m.reset()
			m.stop()
			f := &fleet{machine: m}
			for i := range f.nodes {
				f.boot(i)
			}
			defer func() {
				for _, n := range f.nodes {
					n.halt()
				}
			}()
			for range rapid.IntRange(1, 25).Draw(t, "steps") {
				f.step(t)
			}
			f.settle(t)
		})
	})
}
