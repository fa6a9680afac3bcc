package roomserver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"weft/matrix/event"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

const (
	// spoolMemory is how many bytes of events a spool holds in memory before it
	// moves to a file.
	spoolMemory = 4 << 20
	// maxSpoolEvents bounds the events of one answer: state and auth chain.
	maxSpoolEvents = 2_000_000
)

// spool takes a room's state and auth chain as another server streams them,
// in any order, and gives them back ordered by their auth events. It keeps about
// a hundred bytes for each event; the events themselves go to a temporary file
// when they are many. It is not safe for concurrent use.
type spool struct {
	rules *event.Rules
	room  id.Room

	index   map[id.Event]int32
	entries []spoolEntry // by index; an entry without data is only referred to
	state   []int32      // in the order of arrival
	dropped int          // events that are no valid events of this room

	mem  []byte
	file *os.File
	out  *bufio.Writer
	end  int64
}

type spoolEntry struct {
	id     id.Event
	offset int64
	size   int32 // 0: not received
	auth   []int32
	state  bool
}

func newSpool(rules *event.Rules, room id.Room) *spool {
	return &spool{rules: rules, room: room, index: make(map[id.Event]int32)}
}

// AddState takes one event of the room's state.
func (sp *spool) AddState(raw []byte) error { return sp.add(raw, true) }

// AddAuth takes one event of the auth chain.
func (sp *spool) AddAuth(raw []byte) error { return sp.add(raw, false) }

// add checks the event's form and content hash. An event that is not valid, or of another
// room, is dropped and counted: what depends on it will be dropped as well.
//
// spec: server-server §5.1.1 (checks 1 and 3)
func (sp *spool) add(raw []byte, state bool) error {
	ev, err := event.Parse(raw, sp.rules)
	if err != nil || ev.RoomID != sp.room || state && !ev.IsState {
		sp.dropped++
		return nil
	}
	return sp.addEvent(ev, state)
}

func (sp *spool) addEvent(ev *event.Event, state bool) error {
	i := sp.intern(ev.ID)
	if state && !sp.entries[i].state {
		sp.entries[i].state = true
		sp.state = append(sp.state, i)
	}
	if sp.entries[i].size != 0 {
		return nil
	}
	if len(sp.entries) > maxSpoolEvents {
		return fmt.Errorf("roomserver: more than %d events in the state and auth chain of %s", maxSpoolEvents, sp.room)
	}
	auth := make([]int32, 0, len(ev.AuthEvents)+1)
	for _, a := range ev.AuthEvents {
		auth = append(auth, sp.intern(a))
	}
	if sp.rules.RoomIDIsCreateHash && ev.Type != eventauth.TypeCreate {
		// The create event is an auth event of all, without being named.
		auth = append(auth, sp.intern(eventauth.CreateEventID(sp.room)))
	}
	data := ev.JSON()
	offset, err := sp.write(data)
	if err != nil {
		return fmt.Errorf("roomserver: spooling the state of %s: %w", sp.room, err)
	}
	e := &sp.entries[i]
	e.offset, e.size, e.auth = offset, int32(len(data)), auth
	return nil
}

func (sp *spool) intern(ev id.Event) int32 {
	i, ok := sp.index[ev]
	if !ok {
		i = int32(len(sp.entries))
		sp.index[ev] = i
		sp.entries = append(sp.entries, spoolEntry{id: ev})
	}
	return i
}

// has tells whether an event was received.
func (sp *spool) has(ev id.Event) bool {
	i, ok := sp.index[ev]
	return ok && sp.entries[i].size != 0
}

func (sp *spool) write(data []byte) (offset int64, err error) {
	offset = sp.end
	sp.end += int64(len(data))
	if sp.file == nil && len(sp.mem)+len(data) <= spoolMemory {
		sp.mem = append(sp.mem, data...)
		return offset, nil
	}
	if sp.file == nil {
		if sp.file, err = os.CreateTemp("", "weft-join-*"); err != nil {
			return 0, err
		}
		sp.out = bufio.NewWriterSize(sp.file, 256<<10)
		if _, err := sp.out.Write(sp.mem); err != nil {
			return 0, err
		}
		sp.mem = nil
	}
	_, err = sp.out.Write(data)
	return offset, err
}

// event reads one entry back. Its form was checked when it came.
func (sp *spool) event(i int32) (*event.Event, error) {
	e := &sp.entries[i]
	data := make([]byte, e.size)
	if sp.file == nil {
		copy(data, sp.mem[e.offset:])
	} else {
		if sp.out.Buffered() > 0 {
			if err := sp.out.Flush(); err != nil {
				return nil, fmt.Errorf("roomserver: spool: %w", err)
			}
		}
		if _, err := sp.file.ReadAt(data, e.offset); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("roomserver: spool: %w", err)
		}
	}
	return event.ParseStored(data, e.id, sp.rules)
}

// order gives the entries so that each comes after its auth events. Entries whose
// auth events (or theirs in turn) did not come, or that refer to each other in a
// circle, are left out: they cannot be authorised. known tells about auth events
// that are in the store already.
func (sp *spool) order(known func(i int32) bool) []int32 {
	missing := make([]int32, len(sp.entries)) // auth events still to come
	users := make([][]int32, len(sp.entries)) // who waits for this one
	var ready []int32
	for i := range sp.entries {
		e := &sp.entries[i]
		if e.size == 0 {
			continue
		}
		for _, a := range e.auth {
			if sp.entries[a].size == 0 && known(a) {
				continue
			}
			missing[i]++
			users[a] = append(users[a], int32(i))
		}
		if missing[i] == 0 {
			ready = append(ready, int32(i))
		}
	}
	for at := 0; at < len(ready); at++ {
		for _, u := range users[ready[at]] {
			if missing[u]--; missing[u] == 0 {
				ready = append(ready, u)
			}
		}
	}
	return ready
}

// Close removes the file.
func (sp *spool) Close() error {
	sp.mem, sp.entries, sp.index = nil, nil, nil
	if sp.file == nil {
		return nil
	}
	err := errors.Join(sp.file.Close(), os.Remove(sp.file.Name()))
	sp.file = nil
	return err
}
