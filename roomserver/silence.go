package roomserver

import (
	"errors"
	"sync"
	"time"

	"weft/internal/fedclient"
	"weft/matrix/id"
)

const (
	// silentAfter is how many requests in a row a server may leave without an answer before it is
	// not asked for a while, silentMin at first and twice as long each time, up to silentMax.
	silentAfter = 3
	silentMin   = 30 * time.Second
	silentMax   = 5 * time.Minute
	// maxSilences bounds the servers that are remembered.
	maxSilences = 4096
)

var errSilent = errors.New("it left our last requests without an answer")

// silences are servers that send events, but do not answer what is asked about them. Each such
// event costs a request that ends by its timeout, while the events of others in the room wait
// behind it. The circuits of fedclient do not help: they close whenever a server sends something.
type silences struct {
	now func() time.Time

	mu      sync.Mutex
	servers map[id.Server]silence
}

type silence struct {
	failures int // in a row
	until    time.Time
}

func newSilences(now func() time.Time) *silences {
	return &silences{now: now, servers: make(map[id.Server]silence)}
}

// check gives an error, a ConnError, for a server that is not to be asked now. There may be no silences.
func (l *silences) check(server id.Server) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.now().Before(l.servers[server].until) {
		return nil
	}
	return &fedclient.ConnError{Server: server, Err: errSilent, FailedFast: true}
}

// note takes how a request to a server ended.
func (l *silences) note(server id.Server, err error) {
	var conn *fedclient.ConnError
	if l == nil || errors.As(err, &conn) && conn.FailedFast {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !unreached(err) {
		delete(l.servers, server)
		return
	}
	now, of := l.now(), l.servers[server]
	if now.Before(of.until) {
		return // one of several that were asked at the same time
	}
	if of.failures++; of.failures >= silentAfter {
		pause := silentMin
		for n := silentAfter; n < of.failures && pause < silentMax; n++ {
			pause *= 2
		}
		of.until = now.Add(min(pause, silentMax))
	}
	if _, ok := l.servers[server]; !ok && len(l.servers) >= maxSilences {
		for other := range l.servers { // any
			delete(l.servers, other)
			break
		}
	}
	l.servers[server] = of
}
