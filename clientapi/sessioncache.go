package clientapi

import (
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"weft/internal/bus"
)

const (
	defaultCacheEntries = 10_000
	// sessionCacheTTL bounds how long a node may honour a token that ended on
	// another node where the message about it was lost.
	sessionCacheTTL = 2 * time.Minute
	topicSessions   = "clientapi.sessions"
)

type sessionKey [sha256.Size]byte

// sessionCache holds sessions by the hash of their token. forget and put may
// race: a put that began reading before a forget must not bring the session
// back, so forget counts up epoch, and put takes its entry out again where the
// epoch moved since mark.
type sessionCache struct {
	cache *otter.Cache[sessionKey, cachedEntry]
	epoch atomic.Uint64
	bus   bus.Bus
	now   func() time.Time
}

type cachedEntry struct {
	cachedSession
	until time.Time
}

func newSessionCache(entries int, b bus.Bus, now func() time.Time) (*sessionCache, error) {
	if entries == 0 {
		entries = defaultCacheEntries
	}
	cache, err := otter.New(&otter.Options[sessionKey, cachedEntry]{MaximumSize: entries})
	if err != nil {
		return nil, fmt.Errorf("making the cache of access tokens: %w", err)
	}
	return &sessionCache{cache: cache, bus: b, now: now}, nil
}

func (c *sessionCache) mark() uint64 { return c.epoch.Load() }

func (c *sessionCache) get(hash []byte) (cachedSession, bool) {
	e, ok := c.cache.GetIfPresent(sessionKey(hash))
	if !ok || c.now().After(e.until) {
		return cachedSession{}, false
	}
	return e.cachedSession, true
}

func (c *sessionCache) put(hash []byte, s cachedSession, mark uint64) {
	k := sessionKey(hash)
	c.cache.Set(k, cachedEntry{cachedSession: s, until: c.now().Add(sessionCacheTTL)})
	if c.epoch.Load() != mark {
		c.cache.Invalidate(k)
	}
}

// forget takes sessions out here and tells the other nodes.
func (c *sessionCache) forget(hashes [][]byte) {
	var msg []byte
	for _, h := range hashes {
		msg = append(msg, h...)
	}
	c.drop(msg)
	c.bus.Publish(topicSessions, msg)
}

func (c *sessionCache) drop(msg []byte) {
	c.epoch.Add(1)
	for ; len(msg) >= sha256.Size; msg = msg[sha256.Size:] {
		c.cache.Invalidate(sessionKey(msg[:sha256.Size]))
	}
}

// follow listens to what other nodes forget.
func (c *sessionCache) follow() (cancel func()) {
	return c.bus.Subscribe(topicSessions, c.drop)
}
