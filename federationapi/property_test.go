package federationapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"weft/internal/fedclient"
	"weft/internal/stream"
	"weft/matrix/id"
)

// errLost says that a transaction arrived and its answer did not.
var errLost = errors.New("the answer was lost")

// machine runs the outbound side against servers that fail, and kills it.
type machine struct {
	*world
	rooms []*room
	in    map[*room][]id.Server

	mu   sync.Mutex
	mode map[id.Server]string // "", "down", "lost", "blocked", "picky"

	net  *network
	s    *Server
	stop func()

	want map[*room][]id.Event
	edus map[id.Server][]int
	n    int
}

func newMachine(w *world) *machine {
	w.server(newNetwork(), quickLimits()) // makes the tables
	m := &machine{world: w, in: map[*room][]id.Server{}}
	for _, members := range [][]id.User{{oscar, tina}, {oscar, theo}, {oscar, tina, theo}} {
		r := w.newRoom(alice, members...)
		m.rooms = append(m.rooms, r)
		for _, u := range members {
			m.in[r] = append(m.in[r], u.Server())
		}
	}
	return m
}

// reset begins anew at the present end of the stream.
func (m *machine) reset() {
	pos, err := stream.Position(context.Background(), m.db, stream.Events)
	m.ok(err)
	m.restore(disk{cursor: pos})
	m.net, m.mode = newNetwork(), map[id.Server]string{}
	m.want, m.edus = map[*room][]id.Event{}, map[id.Server][]int{}
	m.net.answers(func(ctx context.Context, server id.Server, tx fedclient.Transaction) error {
		m.mu.Lock()
		mode := m.mode[server]
		m.mu.Unlock()
		switch {
		case mode == "down":
			return errDown
		case mode == "lost":
			return errLost
		case mode == "blocked":
			<-ctx.Done()
			return ctx.Err()
		case mode == "picky" && len(tx.PDUs)+len(tx.EDUs) > 2:
			return remoteError(413, "M_TOO_LARGE")
		}
		return nil
	})
	m.begin()
}

func (m *machine) begin() {
	limits := quickLimits()
	limits.Queue, limits.Page, limits.CatchUp = 4, 5, 1_000_000
	limits.Timeout = 20 * limits.MinBackoff
	m.s = m.server(m.net, limits)
	m.stop = m.start(m.s)
}

// arrived lists what reached a server, in the order of first delivery.
func (m *machine) arrived(server id.Server) (events []id.Event, edus []string) {
	m.net.mu.Lock()
	defer m.net.mu.Unlock()
	seen := map[id.Event]bool{}
	for _, c := range m.net.calls {
		if c.server != server || c.err != nil && !errors.Is(c.err, errLost) {
			continue
		}
		for _, e := range c.pdus() {
			if !seen[e] {
				seen[e] = true
				events = append(events, e)
			}
		}
		for _, e := range c.txn.EDUs {
			edus = append(edus, string(e))
		}
	}
	return events, edus
}

var servers = []id.Server{one, two, three}

func (m *machine) step(t *rapid.T) {
	server := rapid.SampledFrom(servers).Draw(t, "server")
	switch op := rapid.IntRange(0, 11).Draw(t, "op"); op {
	case 0, 1, 2, 3:
		r := rapid.SampledFrom(m.rooms).Draw(t, "room")
		m.want[r] = append(m.want[r], r.talk(rapid.IntRange(1, 12).Draw(t, "events"))...)
	case 4:
		m.n++
		m.edus[server] = append(m.edus[server], m.n)
		m.edu(m.s, "m.direct_to_device", m.n, true, "", server)
	case 5:
		m.edu(m.s, "m.typing", 0, false, "room", server)
	case 6:
		m.ok(m.s.DestinationAlive(context.Background(), server))
	case 7:
		m.stop()
		m.begin()
	case 8:
		m.kill(m.stop)
		m.begin()
	default:
		m.mu.Lock()
		m.mode[server] = rapid.SampledFrom([]string{"", "", "down", "lost", "blocked", "picky"}).Draw(t, "mode")
		m.mu.Unlock()
	}
}

// check lets everything recover and looks whether everything arrives.
func (m *machine) check(t *rapid.T) {
	m.mu.Lock()
	clear(m.mode)
	m.mu.Unlock()
	for _, server := range servers {
		var want []id.Event
		for r, events := range m.want {
			if slices.Contains(m.in[r], server) {
				want = append(want, events...)
			}
		}
		m.net.wait(m.t, fmt.Sprintf("%s has everything", server), func() bool {
			events, edus := m.arrived(server)
			for _, n := range m.edus[server] {
				if !slices.Contains(edus, fmt.Sprintf(`{"edu_type":"m.direct_to_device","content":{"n":%d}}`, n)) {
					return false
				}
			}
			return containsAll(events, want)
		})
		got, _ := m.arrived(server)
		for r, events := range m.want {
			if !slices.Contains(m.in[r], server) {
				for _, e := range events {
					if slices.Contains(got, e) {
						t.Fatalf("%s got %s of a room that it is not in", server, e)
					}
				}
				continue
			}
			first := slices.DeleteFunc(slices.Clone(got), func(e id.Event) bool { return !slices.Contains(events, e) })
			if !slices.Equal(first, events) {
				t.Fatalf("%s got the events of a room in another order", server)
			}
		}
	}
	pos, err := stream.Position(context.Background(), m.db, stream.Events)
	m.ok(err)
	eventually(m.t, "all is read and nothing is left in memory", func() bool {
		for _, server := range servers { // one that failed and lacks nothing is parked until it is heard of
			m.ok(m.s.DestinationAlive(context.Background(), server))
		}
		return m.s.followed() == pos && m.s.waiting() == 0
	})
	m.stop()
	if d := m.snapshot(); d.cursor != pos || len(d.behind) != 0 || len(d.edus) != 0 {
		t.Fatalf("left on disk: %+v, the stream is at %d", d, pos)
	}
}

// TestX_EverythingArrivesInOrder: whatever fails and whenever the server is
// stopped or killed, every event reaches every server of its room at least once,
// first deliveries in the order of the room, and so does every durable EDU.
func TestX_EverythingArrivesInOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		m := newMachine(w)
		rapid.Check(t, func(t *rapid.T) {
			m.reset()
			defer func() { m.stop() }()
			for range rapid.IntRange(1, 25).Draw(t, "steps") {
				m.step(t)
			}
			m.check(t)
		})
	})
}
