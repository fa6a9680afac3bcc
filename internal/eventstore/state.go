package eventstore

import (
	"context"
	"errors"
	"fmt"

	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/eventauth"
	"weft/matrix/merr"
)

const nodesSQL = `SELECT hash, node FROM state_nodes WHERE hash IN `

// Node implements statetree.Loader.
func (r *Reader) Node(ctx context.Context, h statetree.Hash) ([]byte, error) {
	out, err := r.Nodes(ctx, []statetree.Hash{h})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// Decoded implements statetree.Remembering.
func (r *Reader) Decoded() *statetree.Decoded { return &r.caches.decoded }

// Nodes implements statetree.BatchLoader.
func (r *Reader) Nodes(ctx context.Context, hashes []statetree.Hash) ([][]byte, error) {
	m, err := lookup(ctx, r, r.caches.nodes, r.immutable.nodes, hashes, func(h statetree.Hash) any { return h[:] }, nodesSQL,
		func(row func(...any) error) (h statetree.Hash, node []byte, err error) {
			var b []byte
			if err := row(&b, &node); err != nil {
				return h, nil, err
			}
			if len(b) != len(h) {
				return h, nil, fmt.Errorf("a node hash of %d bytes", len(b))
			}
			copy(h[:], b)
			return h, node, nil
		})
	if err != nil {
		return nil, err
	}
	out := make([][]byte, len(hashes))
	for i, h := range hashes {
		node, ok := m[h]
		if !ok {
			return nil, fmt.Errorf("eventstore: %w: %s", statetree.ErrMissing, h)
		}
		out[i] = node
	}
	return out, nil
}

// State is a room's state at one point: a tree, and at most one change on top of
// it. It is immutable.
type State struct {
	r      *Reader
	root   statetree.Root
	change *statetree.Change
}

// State gives a view of the state with a root.
func (r *Reader) State(root statetree.Root) *State { return &State{r: r, root: root} }

// CurrentState gives a view of a room's current state.
func (r *Reader) CurrentState(room *Room) *State { return r.State(room.CurrentState) }

// StateBefore gives a view of the state before an event. An outlier's is
// M_NOT_FOUND.
func (r *Reader) StateBefore(e *Event) (*State, error) {
	if !e.HasState {
		return nil, merr.NotFound("the state at %s is not known here", e.ID)
	}
	return r.State(e.StateBefore), nil
}

// StateAfter gives a view of the state after an event: the state before it, with
// the event itself in it when it is a state event that was not rejected. An
// outlier's is M_NOT_FOUND.
func (r *Reader) StateAfter(e *Event) (*State, error) {
	s, err := r.StateBefore(e)
	if err == nil && e.IsState && e.Flags&Rejected == 0 {
		s.change = &statetree.Change{Key: e.Key(), Event: e.NID}
	}
	return s, err
}

// Root gives the root of the state. Where there is a change on top of a tree, its nodes
// go to out, which must not be nil then.
func (s *State) Root(ctx context.Context, out *statetree.Batch) (statetree.Root, error) {
	if s.change == nil {
		return s.root, nil
	}
	return statetree.Apply(ctx, out, s.root, []statetree.Change{*s.change}, out)
}

// NIDs looks up places, in their order; 0 stands for a place that is empty.
func (s *State) NIDs(ctx context.Context, keys []statetree.Key) ([]nid.Event, error) {
	out, err := statetree.GetMany(ctx, s.r, s.root, keys)
	if err != nil {
		return nil, err
	}
	for i, k := range keys {
		if s.change != nil && s.change.Key == k {
			out[i] = s.change.Event
		}
	}
	return out, nil
}

// NID looks up one place by its text, 0 when it is empty.
func (s *State) NID(ctx context.Context, typ, stateKey string) (nid.Event, error) {
	places, err := s.r.Keys(ctx, []eventauth.Key{{Type: typ, StateKey: stateKey}})
	if err != nil || len(places) == 0 {
		return 0, err
	}
	out, err := s.NIDs(ctx, places)
	if err != nil {
		return 0, err
	}
	return out[0], nil
}

// Get reads one state event, nil when the place is empty.
func (s *State) Get(ctx context.Context, typ, stateKey string) (*Event, error) {
	n, err := s.NID(ctx, typ, stateKey)
	if err != nil || n == 0 {
		return nil, err
	}
	return s.r.Event(ctx, n)
}

// GetMany reads the state events of some places. Empty places are missing in the result.
func (s *State) GetMany(ctx context.Context, keys []eventauth.Key) (map[eventauth.Key]*Event, error) {
	places, err := s.r.Keys(ctx, keys)
	if err != nil {
		return nil, err
	}
	found, err := s.NIDs(ctx, places)
	if err != nil {
		return nil, err
	}
	events, err := s.r.Events(ctx, present(found))
	if err != nil {
		return nil, err
	}
	out := make(map[eventauth.Key]*Event, len(events))
	for _, e := range events {
		out[eventauth.Key{Type: e.Type, StateKey: e.StateKey}] = e
	}
	return out, nil
}

// present drops the zeros.
func present(list []nid.Event) []nid.Event {
	out := make([]nid.Event, 0, len(list))
	for _, n := range list {
		if n != 0 {
			out = append(out, n)
		}
	}
	return out
}

// Walk calls fn for every entry from a place on, in key order. statetree.Stop ends
// the walk without an error.
func (s *State) Walk(ctx context.Context, from statetree.Key, fn func(statetree.Entry) error) error {
	if s.change == nil {
		return statetree.WalkFrom(ctx, s.r, s.root, from, fn)
	}
	pending := !s.change.Less(from)
	stopped := false
	call := func(e statetree.Entry) error {
		err := fn(e)
		stopped = stopped || err != nil
		return err
	}
	err := statetree.WalkFrom(ctx, s.r, s.root, from, func(e statetree.Entry) error {
		if pending && !e.Less(s.change.Key) {
			pending = false
			if err := call(statetree.Entry(*s.change)); err != nil {
				return err
			}
		}
		if e.Key == s.change.Key {
			return nil
		}
		return call(e)
	})
	if err != nil || stopped || !pending {
		return err
	}
	if err := fn(statetree.Entry(*s.change)); !errors.Is(err, statetree.Stop) {
		return err
	}
	return nil
}

// All gives the numbers of all entries, in key order: 24 bytes each.
func (s *State) All(ctx context.Context) ([]statetree.Entry, error) {
	var out []statetree.Entry
	err := s.Walk(ctx, statetree.Key{}, func(e statetree.Entry) error {
		out = append(out, e)
		return nil
	})
	return out, err
}

// pageSize is how many events List reads at a time.
const pageSize = 500

// List calls fn for every state event of some types, or of all types when none is
// named, in key order, reading them in pages. statetree.Stop ends it without an error.
func (s *State) List(ctx context.Context, fn func(*Event) error, types ...string) error {
	err := s.list(ctx, fn, types)
	if errors.Is(err, statetree.Stop) {
		return nil
	}
	return err
}

func (s *State) list(ctx context.Context, fn func(*Event) error, types []string) error {
	if len(types) == 0 {
		return s.pages(ctx, statetree.Key{}, func(statetree.Entry) bool { return true }, fn)
	}
	nids, err := s.r.TypeNIDs(ctx, types)
	if err != nil {
		return err
	}
	for _, typ := range types {
		t, ok := nids[typ]
		if !ok {
			continue
		}
		delete(nids, typ) // a type named twice is listed once
		err := s.pages(ctx, statetree.Key{Type: t}, func(e statetree.Entry) bool { return e.Type == t }, fn)
		if err != nil {
			return err
		}
	}
	return nil
}

// pages reads the events from a place on, as long as they are within what is asked for.
func (s *State) pages(ctx context.Context, from statetree.Key, within func(statetree.Entry) bool, fn func(*Event) error) error {
	for {
		page := make([]nid.Event, 0, pageSize)
		var next *statetree.Key
		err := s.Walk(ctx, from, func(e statetree.Entry) error {
			if !within(e) {
				return statetree.Stop
			}
			if len(page) == pageSize {
				next = &e.Key
				return statetree.Stop
			}
			page = append(page, e.Event)
			return nil
		})
		if err != nil {
			return err
		}
		events, err := s.r.Events(ctx, page)
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := fn(e); err != nil {
				return err
			}
		}
		if next == nil {
			return nil
		}
		from = *next
	}
}
