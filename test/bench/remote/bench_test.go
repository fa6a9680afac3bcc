package remote

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
)

// heap gives the bytes that are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A room costs its events' bytes and little else. retained-B is what stays of it in
// memory, json-B the bytes of its events.
func BenchmarkNewRoom(b *testing.B) {
	s := serve(b, Options{Servers: 8})
	for _, members := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			before := heap()
			var r *Room
			for b.Loop() {
				r = newRoom(b, s, RoomOptions{Members: members})
				delete(s.rooms, r.ID)
			}
			b.ReportMetric(float64(heap()-before), "retained-B")
			_, bytes := r.Size()
			b.ReportMetric(float64(bytes), "json-B")
		})
	}
}

func BenchmarkInflow(b *testing.B) {
	const n = 2_000
	s := serve(b, Options{Servers: 8})
	for name, inflow := range map[string]func(*Room) (*Inflow, error){
		"linear":  func(r *Room) (*Inflow, error) { return r.Linear(n) },
		"branchy": func(r *Room) (*Inflow, error) { return r.Branchy(n, 5, 10) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				r := newRoom(b, s, RoomOptions{Members: 500})
				delete(s.rooms, r.ID)
				before := heap()
				b.StartTimer()
				f, err := inflow(r)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				b.ReportMetric(float64(heap()-before)/n, "retained-B/event")
				runtime.KeepAlive(r)
				runtime.KeepAlive(f)
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/event")
		})
	}
}

// An answer to a join is written from what is there: nothing is allocated for each
// member but its place in a list.
func BenchmarkJoinAnswer(b *testing.B) {
	s, p := newPeers(b, Options{Servers: 8})
	r := newRoom(b, s, RoomOptions{Members: 10_000})
	j := p.join(s, r)
	b.ReportAllocs()
	for b.Loop() {
		r.mu.Lock()
		list := r.stateEntries(r.recent[j.event.ID].before)
		r.mu.Unlock()
		o := newObject(io.Discard)
		o.events("state", list)
		if err := o.close(); err != nil {
			b.Fatal(err)
		}
	}
}

type failing struct{ after int }

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, errors.New("the connection is broken")
	}
	return len(p), nil
}

// Who has read the closing brace may go before the write returns; who goes before has
// not had the answer.
func TestAnswersThatAreCutShort(t *testing.T) {
	long := []byte(`"` + strings.Repeat("x", 2*writeBuffer) + `"`)
	for _, c := range []struct {
		after int
		ok    bool
	}{{0, false}, {writeBuffer, false}, {1 << 20, true}} {
		o := newObject(&failing{c.after})
		o.raw("a", long)
		o.raw("b", []byte("1"))
		if err := o.close(); (err == nil) != c.ok {
			t.Errorf("a connection that breaks after %d bytes: %v", c.after, err)
		}
	}
	o := newObject(&failing{0})
	o.field("a", 1)
	if err := o.close(); err != nil {
		t.Errorf("the last write: %v", err)
	}
	o = newObject(io.Discard)
	o.field("a", func() {})
	if err := o.close(); err == nil {
		t.Error("what cannot be written was written")
	}
}
