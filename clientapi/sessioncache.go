package clientapi

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"weft/internal/bus"
	"weft/internal/sqldb"
	"weft/internal/stream"
)

const (
	defaultCacheEntries = 10_000
	// sessionCacheTTL bounds how long a node may honour a token that was ended by a process
	// of which it knows nothing (Config.Shared is not set).
	sessionCacheTTL = 2 * time.Minute
	topicSessions   = "clientapi.sessions"
	// streamSessions counts what is forgotten, in the transaction that makes it forgotten, with Config.Shared.
	streamSessions stream.Name = "sessions"
	// sessionPoll is how often a node looks whether it heard of all that was to be forgotten. What no
	// message told of is missed at the second look.
	sessionPoll = time.Second
	// maxToldSessions bounds the positions that are remembered between two looks.
	maxToldSessions = 10_000
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

	mu         sync.Mutex
	told       map[int64]struct{} // positions of the stream that messages told of
	begun      bool
	done, seen int64 // all up to done is forgotten; seen is what the last look saw
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
	return &sessionCache{cache: cache, bus: b, now: now, told: make(map[int64]struct{})}, nil
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

// forget takes sessions out here and tells the other nodes. pos is the position at which they were
// counted; 0: they were not.
func (c *sessionCache) forget(hashes [][]byte, pos int64) {
	var msg []byte
	for _, h := range hashes {
		msg = append(msg, h...)
	}
	if pos != 0 {
		msg = binary.BigEndian.AppendUint64(msg, uint64(pos))
	}
	c.drop(msg)
	c.bus.Publish(topicSessions, msg)
}

func (c *sessionCache) drop(msg []byte) {
	c.epoch.Add(1)
	for ; len(msg) >= sha256.Size; msg = msg[sha256.Size:] {
		c.cache.Invalidate(sessionKey(msg[:sha256.Size]))
	}
	if len(msg) == 8 {
		c.hear(int64(binary.BigEndian.Uint64(msg)))
	}
}

// hear notes that what is counted at a position was forgotten.
func (c *sessionCache) hear(pos int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.told) >= maxToldSessions {
		clear(c.told)
	}
	c.told[pos] = struct{}{}
}

// look forgets all sessions where no message came of a position that the look before saw already.
func (c *sessionCache) look(ctx context.Context, q sqldb.Querier) error {
	now, err := stream.Position(ctx, q, streamSessions)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.begun {
		c.begun, c.done, c.seen = true, now, now
		c.clear() // what was read before the first look
		return nil
	}
	came := int64(0)
	for pos := range c.told {
		if pos > c.done && pos <= c.seen {
			came++
		}
		if pos <= c.seen {
			delete(c.told, pos)
		}
	}
	if came < c.seen-c.done {
		c.clear()
	}
	c.done, c.seen = c.seen, now
	return nil
}

func (c *sessionCache) clear() {
	c.epoch.Add(1)
	c.cache.InvalidateAll()
}

// follow listens to what other nodes forget.
func (c *sessionCache) follow() (cancel func()) {
	return c.bus.Subscribe(topicSessions, c.drop)
}
