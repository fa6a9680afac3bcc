package bus_test

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"

	"weft/internal/bus"
	"weft/internal/stream"
)

func number(data []byte) int { return int(binary.BigEndian.Uint64(data)) }

func bytesOf(n int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// The tests run in bubbles: synctest.Wait returns when all that was published is delivered, and a bubble
// whose goroutines do not all end fails the test.

func TestDeliveryInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bus.NewLocal()
		const subscribers, n = 3, 5000
		got := make([][]int, subscribers)
		var cancels []func()
		for i := range subscribers {
			cancels = append(cancels, b.Subscribe("a", func(data []byte) { got[i] = append(got[i], number(data)) }))
		}
		other := 0
		cancels = append(cancels, b.Subscribe("b", func([]byte) { other++ }))
		b.Publish("nobody", bytesOf(1))
		for i := range n {
			b.Publish("a", bytesOf(i))
			if i%100 == 0 {
				synctest.Wait() // let the subscribers keep up
			}
		}
		synctest.Wait()
		for i := range got {
			if len(got[i]) != n {
				t.Fatalf("subscriber %d got %d messages, want %d", i, len(got[i]), n)
			}
			for k, v := range got[i] {
				if v != k {
					t.Fatalf("subscriber %d got %d in place %d", i, v, k)
				}
			}
		}
		if s := b.Stats(); s.Dropped != 0 || s.Published != n+1 || s.Queued != 0 || other != 0 {
			t.Errorf("stats %+v, other topic got %d", s, other)
		}
		for _, cancel := range cancels {
			cancel()
		}
	})
}

func TestOverflowDropsTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bus.NewLocal()
		free := make(chan struct{})
		var slow, quick []int
		cancelSlow := b.Subscribe("a", func(data []byte) {
			<-free
			slow = append(slow, number(data))
		})
		cancelQuick := b.Subscribe("a", func(data []byte) { quick = append(quick, number(data)) })
		b.Publish("a", bytesOf(0))
		synctest.Wait() // the slow one holds message 0 now
		const more = 10
		for i := 1; i <= bus.QueueLen+more; i++ {
			b.Publish("a", bytesOf(i))
			synctest.Wait()
		}
		if s := b.Stats(); s.Dropped != more || s.Queued != bus.QueueLen {
			t.Errorf("stats %+v, want %d dropped and %d queued", s, more, bus.QueueLen)
		}
		if len(quick) != 1+bus.QueueLen+more {
			t.Errorf("the quick subscriber got %d messages", len(quick))
		}
		close(free)
		synctest.Wait()
		if len(slow) != 1+bus.QueueLen || slow[0] != 0 || slow[1] != 1+more || slow[len(slow)-1] != bus.QueueLen+more {
			t.Errorf("the slow subscriber got %d messages: %d, %d … %d", len(slow), slow[0], slow[1], slow[len(slow)-1])
		}
		cancelSlow()
		cancelQuick()
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bus.NewLocal()
		var a, c int
		cancelA := b.Subscribe("t", func([]byte) { a++ })
		var cancelC func()
		cancelC = b.Subscribe("t", func([]byte) {
			c++
			cancelC() // from within
		})
		synctest.Wait()
		b.Publish("t", nil)
		synctest.Wait()
		cancelA()
		cancelA() // twice is harmless
		b.Publish("t", nil)
		synctest.Wait()
		if a != 1 || c != 1 {
			t.Errorf("deliveries after cancel: %d and %d, want 1 and 1", a, c)
		}
		if s := b.Stats(); s.Queued != 0 || s.Dropped != 0 {
			t.Errorf("stats %+v", s)
		}
		// The bubble ends only if both delivering goroutines did.
	})
}

func TestConcurrentUse(t *testing.T) {
	b := bus.NewLocal()
	const publishers, each = 4, 200
	var mu sync.Mutex
	last := map[int]int{}
	received := 0
	all := make(chan struct{})
	cancel := b.Subscribe("t", func(data []byte) {
		mu.Lock()
		defer mu.Unlock()
		p, i := number(data)/each, number(data)%each
		if next, ok := last[p]; ok && i <= next {
			t.Errorf("publisher %d: %d after %d", p, i, next)
		}
		last[p] = i
		if received++; received == publishers*each {
			close(all)
		}
	})
	defer cancel()
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				stop := b.Subscribe(fmt.Sprint("t", i%3), func([]byte) {})
				b.Publish("t", bytesOf(p*each+i))
				stop()
			}
		})
	}
	wg.Wait()
	<-all // fewer than QueueLen in all: nothing may be dropped
}

func TestUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bus.NewLocal()
		var got []bus.Update
		cancel := bus.SubscribeUpdates(b, func(u bus.Update) { got = append(got, u) })
		want := []bus.Update{
			{Stream: stream.Events, Pos: 1 << 40, Rooms: []string{"!a:b", "!\"\n<ü"}, Users: []string{"@u:x"}, Servers: []string{"y"}},
			{Stream: stream.Receipts, Pos: 1},
			{}, // what a message that nobody can read becomes
		}
		bus.PublishUpdate(b, want[0])
		bus.PublishUpdate(b, want[1])
		b.Publish(bus.TopicUpdates, []byte(`{"s":7`))
		synctest.Wait()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		cancel()
	})
}

func BenchmarkPublish(b *testing.B) {
	l := bus.NewLocal()
	for range 4 {
		defer l.Subscribe("t", func([]byte) {})()
	}
	data := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		l.Publish("t", data)
	}
}
