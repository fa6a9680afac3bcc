package eventstore

import (
	"weft/internal/nid"
	"weft/matrix/id"
)

// Drop takes events that were deleted out of the caches of this process. Another process finds
// out when it reads them by their IDs.
func (r *Reader) Drop(events map[nid.Event]id.Event) {
	for n, e := range events {
		r.Forget(n)
		r.caches.redacted.Invalidate(n)
		r.caches.ids.Invalidate(n)
		r.caches.nids.Invalidate(e)
	}
}

// Forget drops events from the caches of this process. There is one thing of a stored
// event that is completed later: the numbers of its auth events, when it was stored
// while some of them were unknown (an invite to a room that the server was not in).
// Another process that has such an event cached keeps the shorter list until it drops
// the event: its auth chains lack events meanwhile, which others then ask for.
func (r *Reader) Forget(events ...nid.Event) {
	for _, n := range events {
		r.caches.records.Invalidate(n)
		r.caches.edges.Invalidate(n)
	}
}
