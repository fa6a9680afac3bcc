package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/semaphore"

	"weft/internal/sqldb"
)

// MaxNodes bounds the nodes of a cluster, those included that died less than RemoveAfter ago.
const MaxNodes = 256

const (
	maxAddress    = 300  // bytes
	maxVersion    = 128  // bytes
	maxComponents = 1024 // bytes, with the commas
	leaveTime     = 2 * time.Second
)

var (
	// ErrFull says that there are more than MaxNodes nodes in the database.
	ErrFull = fmt.Errorf("cluster: more than %d nodes in the table cluster_nodes", MaxNodes)
	// ErrLeft says that this node has left the cluster.
	ErrLeft = errors.New("cluster: this node has left")
)

// Node is a process of the cluster.
type Node struct {
	ID         string   // 32 hex digits, new at each start of a process
	Address    string   // host:port where its bus listens; empty until there is one
	HTTP       string   // host:port where it takes requests that others hand on; likewise
	Components []string // what it runs, sorted; not to be changed
	Version    string
	Load       int64     // what the node said with SetLoad
	Started    time.Time // by the node's own clock: for people, not for comparing
	Leaving    bool      // it owns nothing any more
	Schemas    string    // what it knows of the database's schema, as sqldb.DB.Schemas has it
	Beat       int64     // the number of its last heartbeat that was seen
}

// Status is what this node knows of a node.
type Status struct {
	Node
	Seen time.Duration // ago: its last heartbeat that was seen
	Live bool          // false: it was seen longer ago than DeadAfter
}

// Config is what Join needs. The zero of a duration means its default; Beat < LeaseTime < DeadAfter < RemoveAfter.
type Config struct {
	DB         *sqldb.DB
	Log        logrus.FieldLogger // nil: silent
	Now        func() time.Time   // monotonic readings; nil: time.Now
	Components []string           // lower-case letters, digits and _; 1024 bytes together
	Version    string             // at most 128 bytes
	Address    string             // at most 300 bytes; may be empty, and set later
	Schemas    func() string      // asked at each heartbeat; nil: nothing is said

	Beat        time.Duration // between two heartbeats (1 s)
	LeaseTime   time.Duration // how long a heartbeat lets this node own its share (3 s)
	DeadAfter   time.Duration // a node that was not seen for longer is dead (4 s)
	RemoveAfter time.Duration // and its row is removed (60 s)
}

var componentName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

func (cfg *Config) check() error {
	cfg.Beat = cmp.Or(cfg.Beat, time.Second)
	cfg.LeaseTime = cmp.Or(cfg.LeaseTime, 3*time.Second)
	cfg.DeadAfter = cmp.Or(cfg.DeadAfter, 4*time.Second)
	cfg.RemoveAfter = cmp.Or(cfg.RemoveAfter, time.Minute)
	if cfg.Beat <= 0 || cfg.Beat >= cfg.LeaseTime || cfg.LeaseTime >= cfg.DeadAfter || cfg.DeadAfter >= cfg.RemoveAfter {
		return fmt.Errorf("cluster: beat %v, lease time %v, dead after %v, remove after %v: each must be longer than the one before",
			cfg.Beat, cfg.LeaseTime, cfg.DeadAfter, cfg.RemoveAfter)
	}
	if cfg.Log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		cfg.Log = silent
	}
	for _, name := range cfg.Components {
		if !componentName.MatchString(name) {
			return fmt.Errorf("cluster: %q is no name for a component", name)
		}
	}
	return errors.Join(checkText("list of components", strings.Join(cfg.Components, ","), maxComponents),
		checkText("version", cfg.Version, maxVersion), CheckAddress(cfg.Address))
}

// CheckAddress tells whether SetAddress would take an address.
func CheckAddress(address string) error { return checkText("address", address, maxAddress) }

func checkText(what, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("cluster: the %s has %d bytes, at most %d are allowed", what, len(s), limit)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("cluster: the %s %q is not printable ASCII", what, s)
	}
	return nil
}

// Cluster is the cluster as one node sees it. All methods may be called by many goroutines at once.
type Cluster struct {
	cfg     Config
	table   table                // nil: the node is alone
	elapsed func() time.Duration // since Join, monotonic
	view    atomic.Pointer[view]
	load    atomic.Int64
	metrics metrics

	turn *semaphore.Weighted // who has it works with the table

	mu      sync.Mutex // guards what follows and the publishing of views; not held while the table is asked
	self    Node
	beatNo  int64                    // of the last heartbeat that succeeded
	tries   int64                    // how often the next one was written
	began   [keptBeats]time.Duration // when each of the last ones was written first, by its number
	left    bool
	fresh   bool          // the row was added, and no heartbeat has succeeded since
	renewed time.Duration // start of the last heartbeat that succeeded
	looked  time.Duration // when the rows were last read
	seen    map[string]*seen
	others  []sighting
	held    bool  // the lease was there when it was last looked at
	back    int64 // the heartbeat with which it was had again, or first
	// absences is how often others may have counted this node out.
	absences int64
	settled  time.Duration
	owning   bool // and the share was owned
	failing  bool // the last heartbeat failed, which was logged
}

// seen is what an observer remembers of a row.
type seen struct {
	beat int64
	at   time.Duration // when the beat was seen to change
}

func newCluster(cfg Config, t table) *Cluster {
	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	base := now()
	c := &Cluster{cfg: cfg, table: t, metrics: newMetrics(), turn: semaphore.NewWeighted(1), seen: make(map[string]*seen)}
	if c.elapsed = func() time.Duration { return now().Sub(base) }; cfg.Now == nil {
		c.elapsed = func() time.Duration { return time.Since(base) } // reads one clock, time.Now reads two
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	components := slices.Compact(slices.Sorted(slices.Values(cfg.Components)))
	c.self = Node{ID: hex.EncodeToString(id[:]), Address: cfg.Address, Components: components, Version: cfg.Version, Started: base}
	return c
}

// Single makes the cluster of a server that is alone with its database: it owns all keys of all components. It needs
// no database and starts nothing.
func Single(components []string) *Cluster {
	c := newCluster(Config{Components: components}, nil)
	v := newView(sighting{Node: c.self, live: true}, nil, 0, 0)
	v.changed = make(chan struct{})
	c.view.Store(v)
	return c
}

// Join makes this process a node of the cluster: it writes its first heartbeat and reads those of the others. Run must
// follow within LeaseTime. Where the table is full of nodes, Join waits until the dead among them can be removed
// (RemoveAfter), and fails with ErrFull when they all live.
func Join(ctx context.Context, cfg Config) (*Cluster, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.DB == nil {
		return nil, errors.New("cluster: no database")
	}
	return join(ctx, newCluster(cfg, sqlTable{cfg.DB}))
}

func join(ctx context.Context, c *Cluster) (*Cluster, error) {
	v := newView(sighting{Node: c.self, live: true}, nil, 0, 0)
	v.changed = make(chan struct{})
	c.view.Store(v)
	if err := c.awaitRoom(ctx); err != nil {
		return nil, fmt.Errorf("join the cluster: %w", err)
	}
	if err := c.beat(ctx); err != nil {
		c.leave(ctx)
		return nil, fmt.Errorf("join the cluster: %w", err)
	}
	return c, nil
}

// Run writes a heartbeat every Beat until ctx ends, then removes the row of this node, which owns nothing from then
// on. A database that fails is logged and tried again; the error is always nil.
func (c *Cluster) Run(ctx context.Context) error {
	if c.table == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(c.cfg.Beat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = c.beat(ctx) // logged, counted
		case <-ctx.Done():
			c.leave(ctx)
			return nil
		}
	}
}

// Drain makes this node own nothing from now on, and the others share what it had. It does not wait for
// them: they see it at their next heartbeats. On an error the node owns nothing all the same, and its next
// heartbeat tells the others. There is no way back. A single node keeps what it owns.
func (c *Cluster) Drain(ctx context.Context) error {
	if c.table == nil {
		return nil
	}
	if !c.change(func(self *Node) { self.Leaving = true }) {
		return nil
	}
	return c.beat(ctx)
}

// change changes what this node says of itself; false: it has left.
func (c *Cluster) change(how func(self *Node)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left {
		return false
	}
	how(&c.self)
	c.publish(c.view.Load().from, c.view.Load().until)
	return true
}

// leave ends the membership. When the database does not answer, the others find out by themselves.
func (c *Cluster) leave(ctx context.Context) {
	c.mu.Lock()
	c.left, c.self.Leaving = true, true
	c.publish(0, 0)
	self := c.self.ID
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	err := c.turn.Acquire(ctx, 1) // a heartbeat that is under way would add the row again
	if err == nil {
		defer c.turn.Release(1)
		err = c.table.leave(ctx, self)
	}
	if err != nil {
		c.cfg.Log.WithError(err).Warn("cluster: could not remove the row of this node")
	}
}

// Self gives this node.
func (c *Cluster) Self() Node { return c.view.Load().self }

// Nodes lists the live nodes, this one included, by id. Those that are leaving are among them. While the
// database cannot be reached it stays as it was.
func (c *Cluster) Nodes() []Node { return slices.Clone(c.view.Load().nodes) }

// All lists the nodes that are in the table, dead ones too, by id.
func (c *Cluster) All() []Status {
	v, now := c.view.Load(), c.elapsed()
	list := make([]Status, 0, len(v.all))
	for _, s := range v.all {
		status := Status{Node: s.Node, Seen: max(0, now-s.at), Live: s.live}
		if c.table == nil {
			status.Seen = 0
		}
		list = append(list, status)
	}
	return list
}

// Owner names the node that a key of a component belongs to: whom to ask. It looks at no lease, so it may be this node
// where Owns is false. There is none when no live node runs the component.
func (c *Cluster) Owner(component, key string) (Node, bool) {
	v := c.view.Load()
	if c.table == nil {
		return v.self, true
	}
	m := v.owner(component, key)
	if m == nil {
		return Node{}, false
	}
	return *m.node, true
}

// Ranked lists the nodes that run a component, in the order in which they would own a key: the owner first, then who
// would be it without the one before. Those that are leaving are not among them.
func (c *Cluster) Ranked(component, key string) []Node {
	v := c.view.Load()
	if c.table == nil {
		if !slices.Contains(v.self.Components, component) {
			return nil
		}
		return []Node{v.self}
	}
	return v.ranked(component, key)
}

// Owns tells whether a key of a component belongs to this node and its lease holds. It takes no lock.
func (c *Cluster) Owns(component, key string) bool {
	if c.table == nil {
		return true
	}
	v := c.view.Load()
	if now := c.elapsed(); now < v.from || now >= v.until {
		return false
	}
	m := v.owner(component, key)
	return m != nil && m.self
}

// Timely tells whether what another node asked of this one is to be carried out, when the other had seen a heartbeat of this
// one, by its number. What was on its way for long is not, as when this process was frozen, or the connection stood still: the other has
// given it up meanwhile and done it elsewhere, and something else after it. It takes no lock.
func (c *Cluster) Timely(beat int64) bool {
	if c.table == nil {
		return true
	}
	v, now := c.view.Load(), c.elapsed()
	switch {
	case now >= v.until || beat < v.back || beat <= v.beat-keptBeats:
		return false
	case beat > v.beat: // of a heartbeat that has not ended yet
		return true
	}
	// It was sent after that heartbeat began.
	return now-v.began[beat%keptBeats] <= c.LateAfter()
}

// LateAfter is how long what another node asked of this one can have been on its way at most, to be Timely.
func (c *Cluster) LateAfter() time.Duration { return lateBeats*c.cfg.Beat + c.cfg.Beat/2 }

// asked is what Stale knows of what somebody asked of this node.
type asked struct {
	absences int64
	// Of another node: which heartbeat it had seen, what it said since, and what ends it. wanted is nil of what a client asked.
	beat   int64
	wanted func() (ago time.Duration, ok bool)
	end    context.CancelCauseFunc
}

// ErrGivenUp is the cause of the end of what another node asked and may have given up.
var ErrGivenUp = errors.New("cluster: the node that asked has not been heard of since, and may have given it up")

type askedKey struct{}

// Begin gives a context for what a client asks of this node, by which Stale knows it.
func (c *Cluster) Begin(ctx context.Context) context.Context { return c.begun(ctx, asked{}) }

// Asked is Begin for what another node asks, which had seen a heartbeat of this one, by its number. wanted tells for how long at most the
// other may have given it up, from what it said since; it is false where it said nothing. Call cancel when it is done.
func (c *Cluster) Asked(ctx context.Context, beat int64, wanted func() (ago time.Duration, ok bool)) (_ context.Context, cancel context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	return c.begun(ctx, asked{beat: beat, wanted: wanted, end: end}), func() { end(nil) }
}

func (c *Cluster) begun(ctx context.Context, a asked) context.Context {
	if c.table == nil {
		return ctx
	}
	v := c.view.Load()
	a.absences = v.absences
	if c.elapsed() < v.settled {
		a.absences--
	}
	return context.WithValue(ctx, askedKey{}, a)
}

// Stale tells of what has a context from Begin or Asked whether this node was away since, or is, so that others may have counted it
// out: who asked for it may have asked another one, and for something else after it. What the node that asked may have given up (LateAfter)
// ends when somebody asks for it here; what is to be finished all the same (context.WithoutCancel) is not stale by that. It is false of
// what nobody asked for. Where heartbeats are late it waits for one.
func (c *Cluster) Stale(ctx context.Context) bool {
	if c.table == nil {
		return false
	}
	then, ok := ctx.Value(askedKey{}).(asked)
	if !ok {
		return false
	}
	if v := c.view.Load(); then.absences == v.absences && v.counted != 0 && c.elapsed() >= v.counted {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), staleTime)
		defer cancel()
		if err := c.beat(ctx); err != nil && !errors.Is(err, ErrLeft) { // logged, counted
			return true
		}
	}
	if then.absences != c.view.Load().absences {
		return true
	}
	if c.givenUp(then) {
		then.end(ErrGivenUp)
	}
	return errors.Is(context.Cause(ctx), ErrGivenUp)
}

// givenUp tells whether the node that asked for something may have given it up.
func (c *Cluster) givenUp(a asked) bool {
	if a.wanted == nil {
		return false
	}
	if ago, ok := a.wanted(); ok && ago <= c.LateAfter() {
		return false
	}
	v := c.view.Load()
	beat := min(a.beat, v.beat) // one that has not ended yet began after it
	return beat <= v.beat-keptBeats || c.elapsed()-v.began[beat%keptBeats] > c.LateAfter()
}

// staleTime bounds the heartbeat by which Stale finds out.
const staleTime = 2 * time.Second

// Changed gives a channel that is closed when there is news: a node came or went, began to leave or has
// another address, or this node began or ceased to own its share. The caller takes the channel first, then looks, then waits.
// A lease that runs out is reported at the heartbeat after it.
func (c *Cluster) Changed() <-chan struct{} { return c.view.Load().changed }

// SetAddress tells the others where this node listens: its bus, and for requests that are handed on; host:port, at
// most 300 bytes each. On an error of the database the next heartbeat tells them.
func (c *Cluster) SetAddress(ctx context.Context, bus, http string) error {
	if err := errors.Join(CheckAddress(bus), CheckAddress(http)); err != nil {
		return err
	}
	if !c.change(func(self *Node) { self.Address, self.HTTP = bus, http }) {
		return ErrLeft
	}
	if c.table == nil {
		return nil
	}
	return c.beat(ctx)
}

// Announce tells the others at once what this node says of itself, such as Config.Schemas.
func (c *Cluster) Announce(ctx context.Context) error {
	if c.table == nil {
		return nil
	}
	return c.beat(ctx)
}

// SetLoad sets what Node.Load says, in any unit that the callers agree on; the next heartbeat tells the others.
func (c *Cluster) SetLoad(load int64) { c.load.Store(load) }
