package remote

import (
	"fmt"
	"strings"

	"weft/matrix/event"
	"weft/matrix/id"
)

// chunkSize is what history allocates at a time, in bytes.
const chunkSize = 1 << 20

// history is the events of a room, each after those it names: their IDs and their
// JSON, and nothing else, so that a room of 100,000 members is little more than the
// bytes of its events. It only grows; what was read of it stays as it is.
type history struct {
	chunk []byte
	list  []entry
	index map[id.Event]int
}

// entry is an event of a history.
type entry struct {
	id   id.Event
	json []byte
}

func newHistory(size int) history {
	return history{list: make([]entry, 0, size), index: make(map[id.Event]int, size)}
}

// add appends an event and gives its position.
func (h *history) add(e *event.Event) int {
	json := e.JSON()
	if len(json) > cap(h.chunk)-len(h.chunk) {
		h.chunk = make([]byte, 0, max(chunkSize, len(json)))
	}
	begin := len(h.chunk)
	h.chunk = append(h.chunk, json...)
	// The ID of a built event may share memory with all of the event.
	eventID := id.Event(strings.Clone(string(e.ID)))
	h.list = append(h.list, entry{eventID, h.chunk[begin:len(h.chunk):len(h.chunk)]})
	h.index[eventID] = len(h.list) - 1
	return len(h.list) - 1
}

// parse reads the event at a position again.
func (h *history) parse(at int, rules *event.Rules) (*event.Event, error) {
	e, err := event.ParseStored(h.list[at].json, h.list[at].id, rules)
	if err != nil {
		return nil, fmt.Errorf("remote: event %s: %w", h.list[at].id, err)
	}
	return e, nil
}
