package roomserver

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/id"
)

// statements counts what the PostgreSQL server behind a URL was asked, by its log; the URL it returns makes the
// server write one.
type statements struct{ log string }

func countStatements(t testing.TB, raw string) (*statements, string) {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("log_statement", "all")
	u.RawQuery = q.Encode()
	return &statements{log: filepath.Join(q.Get("host"), "log")}, u.String()
}

func (s *statements) count(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile(s.log)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(text, []byte("LOG:  statement: ")) + bytes.Count(text, []byte("LOG:  execute "))
}

// sharing makes nodes of one server that share a PostgreSQL database, and some rooms in it.
func sharing(t testing.TB, url string, n, rooms int) (nodes []*node, list []id.Room) {
	t.Helper()
	w := newWorld(t, func() *sqldb.DB { return sqldbtest.Open(t, url) })
	nodes = []*node{w.node("a")}
	for len(nodes) < n {
		nodes = append(nodes, w.nodeOn("a", sqldbtest.Open(t, url)))
	}
	rules := rulesOf(t, "12")
	for range rooms {
		events, err := nodes[0].createRoom(t.Context(), rules, "", createSpecs(rules, alice), nil)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, events[0].RoomID)
	}
	return nodes, list
}

// TestStatementsOfAMessage counts what a message alone costs: BEGIN, the room, the position, the event, COMMIT.
func TestStatementsOfAMessage(t *testing.T) {
	seen, url := countStatements(t, sqldbtest.PostgresURL(t))
	nodes, rooms := sharing(t, url, 1, 1)
	nodes[0].send(rooms[0], message(alice, "warm"))
	const n = 20
	before := seen.count(t)
	for i := range n {
		nodes[0].send(rooms[0], message(alice, fmt.Sprint(i)))
	}
	if got := seen.count(t) - before; got > 5*n {
		t.Errorf("%d statements for %d messages", got, n)
	}
}

// BenchmarkSendPostgres is 32 clients sending into 20 rooms through one node or two. It also tells how many statements
// a message costs.
func BenchmarkSendPostgres(b *testing.B) {
	for _, n := range []int{1, 2} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			seen, url := countStatements(b, sqldbtest.PostgresURL(b))
			nodes, rooms := sharing(b, url, n, 20)
			const clients = 32
			var next atomic.Int64
			var wg sync.WaitGroup
			before, commits := seen.count(b), int64(0)
			for _, n := range nodes {
				commits -= n.db.Stats().Commits
			}
			b.ResetTimer()
			for c := range clients {
				rng := rand.New(rand.NewPCG(1, uint64(c)))
				wg.Go(func() {
					for next.Add(1) <= int64(b.N) {
						room := rooms[rng.IntN(len(rooms))]
						if _, err := nodes[c%n].trySend(room, message(alice, fmt.Sprint(rng.Int64()))); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			var retries int64
			for _, n := range nodes {
				commits += n.db.Stats().Commits
				retries += n.db.Stats().Retries
			}
			b.ReportMetric(float64(seen.count(b)-before)/float64(b.N), "statements/op")
			b.ReportMetric(float64(commits)/float64(b.N), "commits/op")
			b.ReportMetric(float64(retries)/float64(b.N), "retries/op")
		})
	}
}

// TestNodesDoNotDeadlock has two nodes send into the same rooms at once. Each of them may find that a room has changed; that
// they lock each other out it may not.
func TestNodesDoNotDeadlock(t *testing.T) {
	nodes, rooms := sharing(t, sqldbtest.PostgresURL(t), 2, 4)
	const clients, each = 8, 15
	var wg sync.WaitGroup
	for c := range clients {
		rng := rand.New(rand.NewPCG(1, uint64(c)))
		wg.Go(func() {
			for i := range each {
				room := rooms[rng.IntN(len(rooms))]
				if _, err := nodes[c%2].trySend(room, message(alice, fmt.Sprint(c, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i, n := range nodes {
		if s := n.db.Stats(); s.Retries+s.Reruns != 0 {
			t.Errorf("node %d: %d retries, %d reruns", i, s.Retries, s.Reruns)
		}
	}
}
