package eventstore

import (
	"encoding/binary"
	"errors"

	"weft/internal/nid"
)

// maxLot is how many events a Lot may have: more are read from the database.
const maxLot = 64

// lotRow is how many bytes of an encoded lot are about one event, in a database that is not small.
const lotRow = 6

// Lot is a stretch of the event stream as who wrote it knows it, after the commit: events of one room at successive positions, with
// which no local user's membership changed. Who follows the stream need not read them from the database (Tail.Feed).
type Lot []StreamRow

// NewLot makes a lot of events with successive positions; nil where there are none or too many.
func NewLot(events []*Event) Lot {
	if len(events) == 0 || len(events) > maxLot {
		return nil
	}
	lot := make(Lot, len(events))
	for i, e := range events {
		lot[i] = StreamRow{Pos: e.StreamPos, Event: e.NID, Room: e.RoomNID, Type: e.TypeNID, Flags: e.Flags}
	}
	return lot
}

// Encode makes a message of a lot: numbers of variable length; the first position, the room, and of each event its number, type and flags.
func (l Lot) Encode() []byte {
	if len(l) == 0 {
		return nil
	}
	b := make([]byte, 0, 12+12*len(l))
	b = binary.AppendUvarint(b, uint64(l[0].Pos))
	b = binary.AppendUvarint(b, uint64(l[0].Room))
	for _, r := range l {
		b = binary.AppendUvarint(b, uint64(r.Event))
		b = binary.AppendUvarint(b, uint64(r.Type))
		b = binary.AppendUvarint(b, uint64(r.Flags))
	}
	return b
}

var errLot = errors.New("eventstore: this is no lot")

// DecodeLot reads what Encode wrote.
func DecodeLot(b []byte) (Lot, error) {
	next := func() int64 {
		v, n := binary.Uvarint(b)
		if n <= 0 || int64(v) < 0 {
			b = nil
			return -1
		}
		b = b[n:]
		return int64(v)
	}
	pos, room := next(), next()
	lot := make(Lot, 0, min(maxLot, len(b)/lotRow+1))
	for len(b) > 0 && len(lot) < maxLot {
		event, typ, flags := next(), next(), next()
		if pos <= 0 || room <= 0 || event <= 0 || typ < 0 || flags < 0 || flags > 1<<15-1 {
			return nil, errLot
		}
		lot = append(lot, StreamRow{Pos: pos + int64(len(lot)), Event: nid.Event(event), Room: nid.Room(room), Type: nid.Type(typ), Flags: Flags(flags)})
	}
	if len(lot) == 0 || len(b) > 0 {
		return nil, errLot
	}
	return lot, nil
}

// Hear is Feed of an encoded lot, which may be none, or one of another version. It may be heard several times.
func (t *Tail) Hear(encoded string) {
	if encoded == "" {
		return
	}
	if pos, n := binary.Uvarint([]byte(encoded[:min(len(encoded), binary.MaxVarintLen64)])); n > 0 && t.covers(int64(pos)) {
		return // lots are taken as a whole
	}
	if lot, err := DecodeLot([]byte(encoded)); err == nil {
		t.Feed(lot)
	}
}

// Feed takes a lot that was committed, so that it is not read from the database. Lots may come in any order, twice, or not at
// all: one that does not join what is known waits for what is between.
func (t *Tail) Feed(lot Lot) {
	if len(lot) == 0 || t.covers(lot[len(lot)-1].Pos) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.low < 0 {
		return
	}
	if len(t.waiting) >= maxWaiting {
		clear(t.waiting)
	}
	t.waiting[lot[0].Pos-1] = lot
	t.join()
}

// join appends the lots that come next. The lock is held.
func (t *Tail) join() {
	for {
		lot, ok := t.waiting[t.high]
		if !ok {
			break
		}
		delete(t.waiting, t.high)
		t.events, t.high = append(t.events, lot...), lot[len(lot)-1].Pos
	}
	t.forget()
}
