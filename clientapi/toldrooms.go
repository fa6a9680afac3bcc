package clientapi

import (
	"context"
	"fmt"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/sirupsen/logrus"

	"weft/internal/spaces"
	"weft/matrix/id"
)

const (
	// toldTTL is how long another server's answer is kept.
	//
	// spec: client-server §11.37.2.2 ("The response to this endpoint should be cached for a period of time")
	toldTTL     = 5 * time.Minute
	toldTimeout = 10 * time.Second
	// maxToldBytes bounds the answers that are kept, and toldCost is what one weighs beside its
	// text.
	maxToldBytes = 16 << 20
	toldCost     = 1000
)

// toldRoom is what another server told of a room, and of its children. It is shared and
// must not be changed.
type toldRoom struct {
	spaces.Space
	known  map[id.Room]*spaces.Summary
	closed map[id.Room]bool
	bytes  int
}

type toldKey struct {
	server id.Server
	room   id.Room
}

// toldRooms asks other servers about rooms that this server is not in and keeps the answers
// for a while, each under the name of who gave it: what one server tells of a
// room is not shown to those who were sent to another one. Refusals are not kept, since a
// member of this server may get in at any time. Requests for one room at the same time
// share one.
type toldRooms struct {
	fed   Remote
	log   *logrus.Entry
	cache *otter.Cache[toldKey, *toldRoom]
}

func newToldRooms(cfg Config) (*toldRooms, error) {
	cache, err := otter.New(&otter.Options[toldKey, *toldRoom]{
		MaximumWeight:    maxToldBytes,
		Weigher:          func(_ toldKey, r *toldRoom) uint32 { return uint32(r.bytes + toldCost) },
		ExpiryCalculator: otter.ExpiryWriting[toldKey, *toldRoom](toldTTL),
	})
	if err != nil {
		return nil, fmt.Errorf("making the cache of other servers' rooms: %w", err)
	}
	return &toldRooms{fed: cfg.Fed, log: cfg.Log, cache: cache}, nil
}

// ask asks servers about a room until one tells; nil where none does.
func (t *toldRooms) ask(ctx context.Context, room id.Room, servers []id.Server) *toldRoom {
	if t.fed == nil {
		return nil
	}
	load := func(ctx context.Context, k toldKey) (*toldRoom, error) {
		// The request must not end with the client that happened to be first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), toldTimeout)
		defer cancel()
		raw, err := t.fed.GetHierarchy(ctx, k.server, k.room)
		if err != nil {
			return nil, err
		}
		return readTold(raw, k.room)
	}
	for _, server := range servers {
		if ctx.Err() != nil {
			return nil
		}
		told, err := t.cache.Get(ctx, toldKey{server, room}, otter.LoaderFunc[toldKey, *toldRoom](load))
		if err == nil {
			return told
		}
		t.log.WithError(err).WithFields(logrus.Fields{"room": room, "server": server}).Debug("another server told nothing of a room")
	}
	return nil
}

func readTold(raw []byte, room id.Room) (*toldRoom, error) {
	h, err := spaces.Parse(raw, room)
	if err != nil {
		return nil, err
	}
	t := &toldRoom{Space: h.Room, known: make(map[id.Room]*spaces.Summary, len(h.Children)), closed: make(map[id.Room]bool, len(h.Inaccessible)), bytes: len(raw)}
	for i := range h.Children {
		t.known[h.Children[i].RoomID] = &h.Children[i]
	}
	for _, r := range h.Inaccessible {
		t.closed[r] = true
	}
	return t, nil
}
