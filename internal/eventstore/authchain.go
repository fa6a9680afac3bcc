package eventstore

import (
	"context"

	"weft/internal/nid"
	"weft/matrix/merr"
)

const edgesSQL = `SELECT event_nid, depth, flags, auth_nids FROM events WHERE event_nid IN `

// AuthEdges gives the auth events, depth and verdict of events without reading
// their JSON. Unknown numbers are missing in the result.
func (r *Reader) AuthEdges(ctx context.Context, events []nid.Event) (map[nid.Event]AuthEdge, error) {
	out := make(map[nid.Event]AuthEdge, len(events))
	err := r.chunked(ctx, edgesSQL, nil, anys(events), func(row func(...any) error) error {
		var n nid.Event
		var e AuthEdge
		var flags Flags
		var auth []byte
		if err := row(&n, &e.Depth, &flags, &auth); err != nil {
			return err
		}
		e.Rejected = flags&Rejected != 0
		var err error
		e.Auth, err = nid.DecodeSet(auth)
		out[n] = e
		if r.fill {
			r.caches.edges.Set(n, e.Auth)
		}
		return err
	})
	return out, err
}

const authSQL = `SELECT event_nid, auth_nids FROM events WHERE event_nid IN `

// AuthNIDs gives the auth events of events. Unknown numbers are missing in the result.
func (r *Reader) AuthNIDs(ctx context.Context, events []nid.Event) (map[nid.Event][]nid.Event, error) {
	return lookup(ctx, r, r.caches.edges, nil, events, func(n nid.Event) any { return int64(n) }, authSQL,
		func(row func(...any) error) (n nid.Event, auth []nid.Event, err error) {
			var b []byte
			if err := row(&n, &b); err != nil {
				return 0, nil, err
			}
			auth, err = nid.DecodeSet(b)
			return n, auth, err
		})
}

// MaxAuthChain is how many events AuthChain visits at most.
const MaxAuthChain = 1_000_000

// AuthChain calls fn once for every event that is reachable over auth events from
// those given, nearest first, without them (unless one is in the chain of another). It
// reads level by level and keeps eight bytes per event. A chain of more than
// MaxAuthChain events is M_TOO_LARGE.
func (r *Reader) AuthChain(ctx context.Context, events []nid.Event, fn func(nid.Event) error) error {
	seen := make(map[nid.Event]struct{})
	level := events
	for len(level) > 0 {
		edges, err := r.AuthNIDs(ctx, level)
		if err != nil {
			return err
		}
		var next []nid.Event
		for _, n := range level {
			for _, a := range edges[n] {
				if _, ok := seen[a]; ok {
					continue
				}
				if len(seen) >= MaxAuthChain {
					return merr.TooLarge("the auth chain has more than %d events", MaxAuthChain)
				}
				seen[a] = struct{}{}
				next = append(next, a)
				if err := fn(a); err != nil {
					return err
				}
			}
		}
		level = next
	}
	return nil
}
