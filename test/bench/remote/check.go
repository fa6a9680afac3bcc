package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/matrix/id"
)

// Get asks the server under test as a client of it who is in the room: path is a
// path of the client–server API with its query, such as
// "/_matrix/client/v3/rooms/!a:b/state". The body is closed by the caller.
type Get func(ctx context.Context, path string) (status int, body io.ReadCloser, err error)

const (
	// pageSize is how many events are read of the history at a time.
	pageSize = 100
	// maxDifferences bounds what an error lists.
	maxDifferences = 10
	// maxClientPage bounds a page of events and other small answers, in bytes.
	maxClientPage = 64 << 20
	// awaitEvery is how often it is asked whether an event is there.
	awaitEvery = 20 * time.Millisecond
)

func (r *Room) path(tail string, query url.Values) string {
	p := "/_matrix/client/v3/rooms/" + url.PathEscape(string(r.ID)) + tail
	if len(query) > 0 {
		p += "?" + query.Encode()
	}
	return p
}

// AwaitEvent waits until a client of the server under test can see an event. It asks
// again and again, fifty times a second at most, which costs the server something.
func (r *Room) AwaitEvent(ctx context.Context, get Get, eventID id.Event) error {
	for {
		status, body, err := get(ctx, r.path("/event/"+url.PathEscape(string(eventID)), nil))
		if err != nil {
			return fmt.Errorf("remote: waiting for %s: %w", eventID, err)
		}
		text, err := io.ReadAll(io.LimitReader(body, maxClientPage))
		if err = errors.Join(err, body.Close()); err != nil {
			return fmt.Errorf("remote: waiting for %s: %w", eventID, err)
		}
		switch status {
		case http.StatusOK:
			return nil
		case http.StatusNotFound, http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		default:
			return fmt.Errorf("remote: waiting for %s: %d %s", eventID, status, text)
		}
		if err := pause(ctx, awaitEvery); err != nil {
			return fmt.Errorf("remote: %s cannot be seen yet: %w", eventID, err)
		}
	}
}

// CheckState compares the room's state as a client of the server under test sees it
// with what this server computes. The error lists the first differences.
func (r *Room) CheckState(ctx context.Context, get Get) error {
	want, err := r.State()
	if err != nil {
		return err
	}
	var wrong differences
	err = each(ctx, get, r.path("/state", nil), func(raw json.RawMessage) error {
		var e struct {
			ID       id.Event `json:"event_id"`
			Type     string   `json:"type"`
			StateKey *string  `json:"state_key"`
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			return err
		}
		if e.StateKey == nil {
			wrong.add("the state has the event %s (%s) without a state key", e.ID, e.Type)
			return nil
		}
		k := key{Type: e.Type, StateKey: *e.StateKey}
		if w := want[k]; w != e.ID {
			wrong.add("%s %q is %s, not %q", k.Type, k.StateKey, e.ID, w)
		}
		delete(want, k)
		return nil
	})
	if err != nil {
		return err
	}
	for k, w := range want {
		wrong.add("%s %q is missing, not %s", k.Type, k.StateKey, w)
	}
	return wrong.err(fmt.Sprintf("the state of %s", r.ID))
}

// CheckMessages reads the history as a client of the server under test sees it,
// backward to the first join by way of this server, and checks that each message of
// an inflow is there once.
func (r *Room) CheckMessages(ctx context.Context, get Get, f *Inflow) error {
	until := make(map[id.Event]bool)
	for _, j := range r.Joins() {
		until[j.Event] = true
	}
	seen, err := r.readBack(ctx, get, until)
	if err != nil {
		return err
	}
	var wrong differences
	for _, m := range f.Messages {
		if seen[m] != 1 {
			wrong.add("the message %s is there %d times", m, seen[m])
		}
	}
	return wrong.err(fmt.Sprintf("the history of %s", r.ID))
}

// readBack counts the events of the history, the latest first, until one of a set of
// events has come.
func (r *Room) readBack(ctx context.Context, get Get, until map[id.Event]bool) (map[id.Event]int, error) {
	seen := make(map[id.Event]int)
	total := len(r.list())
	from := ""
	// Twice as many pages as the room has events to fill: a server may give less.
	for range 2*total/pageSize + 10 {
		q := url.Values{"dir": {"b"}, "limit": {strconv.Itoa(pageSize)}}
		if from != "" {
			q.Set("from", from)
		}
		var page struct {
			Chunk []struct {
				ID id.Event `json:"event_id"`
			} `json:"chunk"`
			End string `json:"end"`
		}
		if err := getJSON(ctx, get, r.path("/messages", q), &page); err != nil {
			return nil, err
		}
		stop := page.End == ""
		for _, e := range page.Chunk {
			seen[e.ID]++
			stop = stop || until[e.ID]
		}
		if stop {
			return seen, nil
		}
		from = page.End
	}
	return nil, fmt.Errorf("remote: the history of %s does not end", r.ID)
}

func (r *Room) list() []entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.events.list
}

// CheckResident asks the server under test over federation, as a server in the room,
// for the state before an event, and compares it with this server's. It needs no
// client, but the server may have much to do for it.
//
// spec: server-server §8, GET /_matrix/federation/v1/state_ids/{roomId}
func (r *Room) CheckResident(ctx context.Context, target id.Server, eventID id.Event) error {
	r.mu.Lock()
	st, err := r.stateBefore(eventID)
	var want []entry
	if err == nil {
		want = r.stateEntries(st)
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	got, err := r.s.identities[0].client.GetStateIDs(ctx, target, r.ID, eventID)
	if err != nil {
		return fmt.Errorf("remote: %w", err)
	}
	counts := make(map[id.Event]int, len(got.State))
	for _, e := range got.State {
		counts[e]++
	}
	var wrong differences
	for _, w := range want {
		if counts[w.id] != 1 {
			wrong.add("%s is there %d times", w.id, counts[w.id])
		}
		delete(counts, w.id)
	}
	for e := range counts {
		wrong.add("%s is not of the state", e)
	}
	return wrong.err(fmt.Sprintf("the state of %s before %s at %s", r.ID, eventID, target))
}

// each reads an array of any length element by element.
func each(ctx context.Context, get Get, path string, visit func(json.RawMessage) error) (err error) {
	status, body, err := get(ctx, path)
	if err != nil {
		return fmt.Errorf("remote: GET %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if status != http.StatusOK {
		return badStatus(path, status, body)
	}
	dec := json.NewDecoder(body)
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return fmt.Errorf("remote: GET %s: no list: %v %w", path, t, err)
	}
	for dec.More() {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return fmt.Errorf("remote: GET %s: %w", path, err)
		}
		if err := visit(raw); err != nil {
			return fmt.Errorf("remote: GET %s: %w", path, err)
		}
	}
	_, err = dec.Token()
	if err != nil {
		return fmt.Errorf("remote: GET %s: the list is cut short: %w", path, err)
	}
	return nil
}

func getJSON(ctx context.Context, get Get, path string, out any) (err error) {
	status, body, err := get(ctx, path)
	if err != nil {
		return fmt.Errorf("remote: GET %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if status != http.StatusOK {
		return badStatus(path, status, body)
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxClientPage))
	if err == nil {
		err = json.Unmarshal(raw, out)
	}
	if err != nil {
		return fmt.Errorf("remote: GET %s: %w", path, err)
	}
	return nil
}

func badStatus(path string, status int, body io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(body, 4<<10))
	return errors.Join(fmt.Errorf("remote: GET %s: %d %s", path, status, bytes.TrimSpace(text)), err)
}

// differences collects what is wrong.
type differences struct {
	n    int
	list []string
}

func (d *differences) add(format string, args ...any) {
	if d.n++; len(d.list) < maxDifferences {
		d.list = append(d.list, fmt.Sprintf(format, args...))
	}
}

func (d *differences) err(what string) error {
	if d.n == 0 {
		return nil
	}
	slices.Sort(d.list)
	return fmt.Errorf("remote: %s is wrong in %d places, such as\n\t%s", what, d.n, strings.Join(d.list, "\n\t"))
}
