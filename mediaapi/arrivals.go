package mediaapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"weft/internal/sqldb"
)

// topicArrived carries the IDs of media whose upload has come.
const topicArrived = "media.arrived"

// lookEvery is how often media that is waited for is looked up, in case a message was lost.
const lookEvery = time.Second

const selectArrivedSQL = `SELECT media_id FROM media WHERE origin = $1 AND hash IS NOT NULL AND media_id IN `

// Run lets waiting downloads hear of uploads, on this node or another, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.listen()()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			s.Log.WithError(err).Warn("uploads that downloads wait for could not be looked up")
		}
	}
}

func (s *Server) listen() (cancel func()) {
	return s.Bus.Subscribe(topicArrived, func(data []byte) { s.arrived.announce(string(data)) })
}

// look finds out which uploads have come of those that downloads wait for.
func (s *Server) look(ctx context.Context) error {
	return sqldb.Chunk(s.arrived.list(), func(mediaIDs []string) (err error) {
		in, args := sqldb.InArgs([]any{string(s.ServerName)}, mediaIDs)
		rows, err := s.DB.Query(ctx, selectArrivedSQL+in, args...)
		if err != nil {
			return fmt.Errorf("mediaapi: looking for uploads: %w", err)
		}
		for rows.Next() {
			var mediaID string
			if err = rows.Scan(&mediaID); err != nil {
				break
			}
			s.arrived.announce(mediaID)
		}
		if err = errors.Join(err, rows.Err(), rows.Close()); err != nil {
			return fmt.Errorf("mediaapi: looking for uploads: %w", err)
		}
		return nil
	})
}

// arrivals lets downloads wait for an upload.
type arrivals struct {
	mu      sync.Mutex
	waiting map[string]*arrival
}

// arrival is one media ID that somebody waits for.
type arrival struct {
	done    chan struct{}
	waiters int
}

func newArrivals() *arrivals { return &arrivals{waiting: map[string]*arrival{}} }

// wait returns a channel that is closed when the media arrives; stop must be
// called when it is no longer waited for.
func (a *arrivals) wait(mediaID string) (done <-chan struct{}, stop func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w, ok := a.waiting[mediaID]
	if !ok {
		w = &arrival{done: make(chan struct{})}
		a.waiting[mediaID] = w
	}
	w.waiters++
	return w.done, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if w.waiters--; w.waiters == 0 && a.waiting[mediaID] == w {
			delete(a.waiting, mediaID)
		}
	}
}

func (a *arrivals) announce(mediaID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w, ok := a.waiting[mediaID]; ok {
		close(w.done)
		delete(a.waiting, mediaID)
	}
}

// list gives the media that is waited for.
func (a *arrivals) list() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.waiting))
}
