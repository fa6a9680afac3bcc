package mediaapi

import "sync"

// arrivals lets downloads wait for an upload on this node.
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
