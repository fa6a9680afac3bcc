package keyring

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/singleflight"

	"weft/matrix/id"
)

const (
	// minPause is how long a server (or the notaries about it) is not asked
	// again after an answer, and after a first failure; maxPause is the most
	// after many failures.
	minPause = 10 * time.Second
	maxPause = time.Hour
	// requestPause is the most for a server whose name is on a request to us: it is back,
	// most likely, and without its keys it would be refused.
	requestPause = time.Minute

	// fetchTimeout bounds one fetch, direct or by all notaries.
	fetchTimeout = 30 * time.Second

	defaultCacheEntries = 8192
)

// ErrStore marks failures of the store: they are ours, not the other server's.
var ErrStore = errors.New("the key store failed")

// Want says which keys of which servers are wanted, and until when (in
// milliseconds) each should be valid. An empty inner map means all keys.
type Want map[id.Server]map[id.KeyID]int64

// Fetcher gets key objects from the network. It does not check them. The
// package fedclient's Client implements it.
type Fetcher interface {
	// ServerKeys asks a server for its own keys.
	ServerKeys(ctx context.Context, server id.Server) ([]byte, error)
	// NotaryKeys asks a notary for the keys of others.
	NotaryKeys(ctx context.Context, notary id.Server, want Want) ([]json.RawMessage, error)
}

// KeyStore keeps what was fetched over restarts.
type KeyStore interface {
	// Load returns what is stored of a server, nil when nothing is.
	Load(ctx context.Context, server id.Server) (*ServerKeys, error)
	// Save replaces what is stored of a server.
	Save(ctx context.Context, keys *ServerKeys) error
}

// Notary is a server that is trusted to pass on others' keys.
type Notary struct {
	Server id.Server
	// Keys are the notary's own keys. When there are none they are fetched
	// from the notary.
	Keys map[id.KeyID]ed25519.PublicKey
}

// Config is what a Keyring is made of.
type Config struct {
	// ServerName is our own name. Our own keys are never fetched.
	ServerName id.Server
	// OwnKeys are our own current and former keys. A current one (ExpiredTS 0)
	// is valid at any time.
	OwnKeys map[id.KeyID]Key
	// Fetcher is needed; Store may be nil, then nothing survives a restart.
	Fetcher Fetcher
	Store   KeyStore
	// Notaries are asked in this order.
	Notaries []Notary
	// CacheEntries bounds the servers in memory; 0 means 8192.
	CacheEntries int
	// Log gets debug lines about failed fetches; nil logs nothing.
	Log logrus.FieldLogger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Keyring finds keys. It is safe for concurrent use.
type Keyring struct {
	cfg     Config
	servers *otter.Cache[id.Server, *serverState]
	flights singleflight.Group
}

// serverState is what is known of one server. Its lock is never held during
// I/O.
type serverState struct {
	mu     sync.Mutex
	loaded bool
	keys   *ServerKeys
	// direct and notary hold back further questions.
	direct, notary pause
}

type pause struct {
	begun, until time.Time
	failures     int
	// err is how the last question ended: what is told to those who may not ask now.
	err error
}

// New makes a Keyring.
func New(cfg Config) (*Keyring, error) {
	if cfg.Fetcher == nil || cfg.ServerName == "" {
		return nil, errors.New("keyring: a server name and a fetcher are needed")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.CacheEntries <= 0 {
		cfg.CacheEntries = defaultCacheEntries
	}
	servers, err := otter.New(&otter.Options[id.Server, *serverState]{
		MaximumSize: cfg.CacheEntries, Executor: func(fn func()) { fn() },
	})
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	return &Keyring{cfg: cfg, servers: servers}, nil
}

// need is one key at one time; ts 0 means at any time.
type need struct {
	key id.KeyID
	ts  int64
}

// Key returns a server's key that is valid at a time in milliseconds (0: any
// time), fetching it if need be.
func (k *Keyring) Key(ctx context.Context, server id.Server, key id.KeyID, ts int64) (ed25519.PublicKey, error) {
	return k.key(ctx, server, key, ts, maxPause)
}

func (k *Keyring) key(ctx context.Context, server id.Server, key id.KeyID, ts int64, longest time.Duration) (ed25519.PublicKey, error) {
	found, err := k.obtain(ctx, server, []need{{key, ts}}, longest)
	if found != nil {
		if e, ok := found.Keys[key]; ok && k.valid(server, e, ts) {
			return e.Public, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("no valid key %s of %s: %w", key, server, err)
	}
	return nil, fmt.Errorf("no valid key %s of %s is known", key, server)
}

// ServerKeys returns what is known of a server's keys, for answering a notary
// query: the latest signed object, fetched anew when it is not valid at the
// wanted time (in milliseconds; 0 means now). If the server cannot be reached
// the last object known is returned; nil and an error when there is none.
//
// spec: server-server §3.3.2 (GET /_matrix/key/v2/query/{serverName})
func (k *Keyring) ServerKeys(ctx context.Context, server id.Server, minValidUntil int64, keys ...id.KeyID) (*ServerKeys, error) {
	if server == k.cfg.ServerName {
		return nil, errors.New("keyring: our own key object is not kept here")
	}
	if minValidUntil == 0 {
		minValidUntil = k.cfg.Now().UnixMilli()
	}
	st, err := k.state(ctx, server)
	if err != nil {
		return nil, err
	}
	known := st.get()
	if known == nil || known.ValidUntilTS < minValidUntil || !known.has(keys) {
		known, err = k.fetchDirect(ctx, server, st, maxPause)
	}
	if known == nil {
		return nil, err
	}
	return known, nil
}

func (sk *ServerKeys) has(keys []id.KeyID) bool {
	for _, kid := range keys {
		if _, ok := sk.Keys[kid]; !ok {
			return false
		}
	}
	return true
}

// valid is Key.ValidAt, but our own current keys never run out.
func (k *Keyring) valid(server id.Server, key Key, ts int64) bool {
	if server == k.cfg.ServerName && key.ExpiredTS == 0 {
		return true
	}
	return key.ValidAt(ts)
}

// own is our own keys in the shape of any other server's.
func (k *Keyring) own() *ServerKeys {
	return &ServerKeys{Server: k.cfg.ServerName, Keys: k.cfg.OwnKeys}
}

// obtain returns what is known of a server after trying to meet the needs.
// With an error there may be keys all the same. longest is the longest pause that the server gets.
func (k *Keyring) obtain(ctx context.Context, server id.Server, needs []need, longest time.Duration) (*ServerKeys, error) {
	if server == k.cfg.ServerName {
		return k.own(), nil
	}
	st, err := k.state(ctx, server)
	if err != nil {
		return nil, err
	}
	known := st.get()
	if k.met(known, needs) {
		return known, nil
	}
	known, err = k.fetchDirect(ctx, server, st, longest)
	if k.met(known, needs) || len(k.cfg.Notaries) == 0 {
		return known, err
	}
	if nerr := k.fetchNotaries(ctx, map[id.Server][]need{server: needs}); nerr != nil {
		err = errors.Join(err, nerr)
	}
	return st.get(), err
}

func (k *Keyring) met(known *ServerKeys, needs []need) bool {
	if known == nil {
		return false
	}
	for _, n := range needs {
		if key, ok := known.Keys[n.key]; !ok || !k.valid(known.Server, key, n.ts) {
			return false
		}
	}
	return true
}

// state returns a server's entry with what the store holds.
func (k *Keyring) state(ctx context.Context, server id.Server) (*serverState, error) {
	st, _ := k.servers.ComputeIfAbsent(server, func() (*serverState, bool) { return &serverState{}, false })
	st.mu.Lock()
	loaded := st.loaded
	st.mu.Unlock()
	if loaded || k.cfg.Store == nil {
		return st, nil
	}
	err := k.share(ctx, "load "+string(server), func(ctx context.Context) error {
		keys, err := k.cfg.Store.Load(ctx, server)
		if err != nil {
			return fmt.Errorf("%w: loading the keys of %s: %w", ErrStore, server, err)
		}
		st.mu.Lock()
		defer st.mu.Unlock()
		if !st.loaded && st.keys == nil {
			st.keys = keys
		}
		st.loaded = true
		return nil
	})
	return st, err
}

func (st *serverState) get() *ServerKeys {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.keys
}

// begin says whether a question may be asked now. The error is errPaused, with that of the last
// question: whoever comes during the pause knows no more than whoever asked, and no less.
func (st *serverState) begin(p *pause, now time.Time, longest time.Duration) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case !now.Before(p.until) || !now.Before(p.begun.Add(longest)):
		return nil
	case p.err != nil:
		return fmt.Errorf("%w: %w", errPaused, p.err)
	}
	return errPaused
}

// done records the outcome of a question.
func (st *serverState) done(p *pause, now time.Time, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if err == nil {
		*p = pause{begun: now, until: now.Add(minPause)}
		return
	}
	d := minPause
	for range min(p.failures, 16) {
		d *= 2
	}
	p.failures++
	p.begun, p.until, p.err = now, now.Add(min(d, maxPause)), err
}

// learn merges and stores a checked response.
func (k *Keyring) learn(ctx context.Context, st *serverState, fresh *ServerKeys, direct bool) error {
	st.mu.Lock()
	st.keys = merge(st.keys, fresh, direct)
	st.loaded = true
	keys := st.keys
	st.mu.Unlock()
	if k.cfg.Store == nil {
		return nil
	}
	if err := k.cfg.Store.Save(ctx, keys); err != nil {
		return fmt.Errorf("%w: storing the keys of %s: %w", ErrStore, fresh.Server, err)
	}
	return nil
}

// share runs fn once for all who ask for the same at the same time, on a context
// of its own, so that one who gives up does not fail the others.
func (k *Keyring) share(ctx context.Context, flight string, fn func(context.Context) error) error {
	ch := k.flights.DoChan(flight, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		return nil, fn(ctx)
	})
	select {
	case res := <-ch:
		return res.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}
