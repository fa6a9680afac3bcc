package eventstore

import (
	"context"
	"fmt"

	"weft/internal/nid"
	"weft/internal/statetree"
)

const (
	allNodesSQL    = `SELECT hash FROM state_nodes`
	allEventsSQL   = `SELECT event_nid, stream_pos IS NOT NULL, state_before, auth_nids FROM events`
	memberNIDsSQL  = `SELECT event_nid FROM room_members UNION SELECT event_nid FROM membership_changes`
	currentRootSQL = `SELECT current_state FROM rooms`
)

// Unreachable counts the state nodes and the outliers that nothing refers to. It reads everything
// and holds much of it in memory: it is for tests and measurements, with writers at rest.
func (r *Reader) Unreachable(ctx context.Context) (nodes, outliers int, err error) {
	u := unreachable{r: r.Scanning().Primary(), used: make(map[nid.Event]bool), auth: make(map[nid.Event][]nid.Event), nodes: make(map[statetree.Hash]bool)}
	if err := u.load(ctx); err != nil {
		return 0, 0, fmt.Errorf("eventstore: looking for what is unreachable: %w", err)
	}
	for len(u.queue) > 0 {
		n := u.queue[0]
		u.queue = u.queue[1:]
		for _, a := range u.auth[n] {
			u.use(a)
		}
	}
	for n := range u.auth {
		if !u.used[n] {
			outliers++
		}
	}
	err = r.rows(ctx, allNodesSQL, nil, func(row func(...any) error) error {
		var h []byte
		err := row(&h)
		if !u.nodes[statetree.Hash(h)] {
			nodes++
		}
		return err
	})
	return nodes, outliers, err
}

type unreachable struct {
	r     *Reader
	used  map[nid.Event]bool
	auth  map[nid.Event][]nid.Event // of all events
	nodes map[statetree.Hash]bool
	queue []nid.Event
}

func (u *unreachable) use(n nid.Event) {
	if !u.used[n] {
		u.used[n] = true
		u.queue = append(u.queue, n)
	}
}

func (u *unreachable) load(ctx context.Context) error {
	roots := make(map[statetree.Root]bool)
	err := u.r.rows(ctx, currentRootSQL, nil, func(row func(...any) error) error {
		var root []byte
		if err := row(&root); err != nil {
			return err
		}
		roots[statetree.Root(root)] = true
		return nil
	})
	if err != nil {
		return err
	}
	err = u.r.rows(ctx, allEventsSQL, nil, func(row func(...any) error) error {
		var n nid.Event
		var placed bool
		var root, set []byte
		if err := row(&n, &placed, &root, &set); err != nil {
			return err
		}
		if placed {
			u.use(n)
		}
		if root != nil {
			roots[statetree.Root(root)] = true
		}
		var err error
		u.auth[n], err = nid.DecodeSet(set)
		return err
	})
	if err != nil {
		return err
	}
	err = u.r.rows(ctx, memberNIDsSQL, nil, func(row func(...any) error) error {
		var n nid.Event
		err := row(&n)
		u.use(n)
		return err
	})
	if err != nil {
		return err
	}
	for root := range roots {
		err := statetree.Visit(ctx, u.r, root, func(h statetree.Hash) bool {
			seen := u.nodes[h]
			u.nodes[h] = true
			return !seen
		}, func(e statetree.Entry) { u.use(e.Event) })
		if err != nil {
			return err
		}
	}
	return nil
}
