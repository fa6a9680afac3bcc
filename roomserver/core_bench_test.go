package roomserver

import (
	"fmt"
	"testing"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/matrix/event"
)

// BenchmarkSend is one client after another sending into one room.
func BenchmarkSend(b *testing.B) {
	w := newWorld(b, func() *sqldb.DB { return sqldbtest.Open(b, sqldbtest.SQLiteURL(b)) })
	a := w.node("a")
	room := a.create("11", alice)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		a.send(room, message(alice, fmt.Sprint(i)))
	}
}

// BenchmarkSendParallel is many clients sending into many rooms at once.
func BenchmarkSendParallel(b *testing.B) {
	w := newWorld(b, func() *sqldb.DB { return sqldbtest.Open(b, sqldbtest.SQLiteURL(b)) })
	a := w.node("a")
	rules := rulesOf(b, "12")
	var rooms []*event.Event
	for range 20 {
		events, err := a.createRoom(b.Context(), rules, "", createSpecs(rules, alice), nil)
		if err != nil {
			b.Fatal(err)
		}
		rooms = append(rooms, events[0].Event)
	}
	b.SetParallelism(50)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := a.trySend(rooms[i%len(rooms)].RoomID, message(alice, fmt.Sprint(i))); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkReceive is a transaction of 50 messages from another server.
func BenchmarkReceive(b *testing.B) {
	w := newWorld(b, func() *sqldb.DB { return sqldbtest.Open(b, sqldbtest.SQLiteURL(b)) })
	a := w.node("a")
	room := a.create("11", alice)
	a.acceptJoin(room, pat)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		var events []*event.Event
		last := a.stored(a.tips(room)[0]).Event
		auth := a.forge(room, message(pat, "x")).AuthEvents
		for i := range 50 {
			last = a.forge(room, message(pat, fmt.Sprint(i)), on(last), func(bl *event.Builder) { bl.AuthEvents = auth })
			events = append(events, last)
		}
		b.StartTimer()
		a.mustPush("p", events...)
	}
}
