package eventstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/maypok86/otter/v2"

	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/matrix/event"
	"weft/matrix/id"
)

// Options bound the caches of a Reader, in bytes. A zero field gets its default.
type Options struct {
	// Events is for parsed events (default 32 MB).
	Events int64
	// Nodes is for the nodes of state trees (default 16 MB).
	Nodes int64
	// Names is for what NIDs stand for, in both directions (default 16 MB).
	Names int64
}

func (o Options) withDefaults() Options {
	set := func(v *int64, def int64) {
		if *v <= 0 {
			*v = def
		}
	}
	set(&o.Events, 32<<20)
	set(&o.Nodes, 16<<20)
	set(&o.Names, 16<<20)
	return o
}

// Reader reads the event store. It is safe for concurrent use, and a
// statetree.BatchLoader that is statetree.Remembering.
type Reader struct {
	q      sqldb.Querier
	fill   bool // whether what is read may go into the caches
	codec  *Codec
	caches *caches
	// immutable are the statements that replicas may be asked; none where all is read from the primary.
	immutable immutable
}

// Open makes a Reader over a migrated database.
func Open(db *sqldb.DB, o Options) (*Reader, error) {
	codec, err := NewCodec()
	if err != nil {
		return nil, err
	}
	c, err := newCaches(o.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("eventstore: caches: %w", err)
	}
	return &Reader{q: db, fill: true, codec: codec, caches: c, immutable: newImmutable(db)}, nil
}

// Snapshot gives a Reader with the same caches that reads through a transaction of
// sqldb.DB.View, so that several calls see one moment. It ends with the transaction.
func (r *Reader) Snapshot(tx *sqldb.Tx) *Reader {
	c := *r
	c.q, c.immutable = tx, immutable{}
	return &c
}

// Uncommitted gives a Reader that reads through a transaction of sqldb.DB.Update
// and sees what it wrote. It uses the caches but fills them with nothing. It ends
// with the transaction.
func (r *Reader) Uncommitted(tx *sqldb.Tx) *Reader {
	c := *r
	c.q, c.fill, c.immutable = tx, false, immutable{}
	return &c
}

// Scanning gives a Reader that uses the caches but fills them with nothing: for passes
// over everything, which would push out what is in use.
func (r *Reader) Scanning() *Reader {
	c := *r
	c.fill = false
	return &c
}

// Primary gives a Reader that asks no replicas: for who looks whether all is right, or removes what is not needed.
func (r *Reader) Primary() *Reader {
	c := *r
	c.immutable = immutable{}
	return &c
}

// Codec gives the codec of stored JSON.
func (r *Reader) Codec() *Codec { return r.codec }

// record is the part of an event's row that never changes.
type record struct {
	*event.Event
	nid  nid.Event
	room nid.Room
	typ  nid.Type
	key  nid.StateKey
	auth []nid.Event
	// verdict is set, atomically, once the event is known to have its place: then it is judged for good.
	verdict uint32
}

const (
	verdictOpen = iota
	verdictAccepted
	verdictRejected
)

func (rec *record) judge(rejected bool) {
	v := uint32(verdictAccepted)
	if rejected {
		v = verdictRejected
	}
	atomic.StoreUint32(&rec.verdict, v)
}

// roomName is the part of a room's row that never changes.
type roomName struct {
	id    id.Room
	rules *event.Rules
}

type caches struct {
	records  *otter.Cache[nid.Event, *record]
	redacted *otter.Cache[nid.Event, *event.Event]
	edges    *otter.Cache[nid.Event, []nid.Event]
	nodes    *otter.Cache[statetree.Hash, []byte]
	decoded  statetree.Decoded
	ids      *otter.Cache[nid.Event, id.Event]
	nids     *otter.Cache[id.Event, nid.Event]
	rooms    *otter.Cache[nid.Room, roomName]
	roomNIDs *otter.Cache[id.Room, nid.Room]
	types    *otter.Cache[nid.Type, string]
	typeNIDs *otter.Cache[string, nid.Type]
	keys     *otter.Cache[nid.StateKey, string]
	keyNIDs  *otter.Cache[string, nid.StateKey]
}

// entryCost is roughly what the cache itself keeps for an entry, in bytes.
const entryCost = 100

func newCache[K comparable, V any](budget int64, weigh func(K, V) int) (*otter.Cache[K, V], error) {
	return otter.New(&otter.Options[K, V]{
		MaximumWeight: uint64(budget),
		Weigher:       func(k K, v V) uint32 { return uint32(min(weigh(k, v)+entryCost, 1<<30)) },
	})
}

func newCaches(o Options) (*caches, error) {
	c := &caches{}
	var errs [12]error
	event1 := func(e *event.Event) int {
		return 500 + 2*len(e.JSON()) + 80*(len(e.PrevEvents)+len(e.AuthEvents))
	}
	c.records, errs[0] = newCache(o.Events/16*13, func(_ nid.Event, v *record) int { return event1(v.Event) + 100 + 8*len(v.auth) })
	c.redacted, errs[1] = newCache(o.Events/16, func(_ nid.Event, v *event.Event) int { return event1(v) })
	c.edges, errs[2] = newCache(o.Events/16*2, func(_ nid.Event, v []nid.Event) int { return 24 + 8*len(v) })
	c.nodes, errs[3] = newCache(o.Nodes, func(_ statetree.Hash, v []byte) int { return 40 + len(v) })
	c.ids, errs[4] = newCache(o.Names/8, func(_ nid.Event, v id.Event) int { return 24 + len(v) })
	c.nids, errs[5] = newCache(o.Names/8, func(k id.Event, _ nid.Event) int { return 24 + len(k) })
	c.rooms, errs[6] = newCache(o.Names/16, func(_ nid.Room, v roomName) int { return 32 + len(v.id) })
	c.roomNIDs, errs[7] = newCache(o.Names/16, func(k id.Room, _ nid.Room) int { return 24 + len(k) })
	c.types, errs[8] = newCache(o.Names/16, func(_ nid.Type, v string) int { return 24 + len(v) })
	c.typeNIDs, errs[9] = newCache(o.Names/16, func(k string, _ nid.Type) int { return 24 + len(k) })
	c.keys, errs[10] = newCache(o.Names/4, func(_ nid.StateKey, v string) int { return 24 + len(v) })
	c.keyNIDs, errs[11] = newCache(o.Names/4, func(k string, _ nid.StateKey) int { return 24 + len(k) })
	return c, errors.Join(errs[:]...)
}

// CacheStats tells how full the caches are.
type CacheStats struct {
	EventBytes, NodeBytes, NameBytes uint64
}

// CacheStats measures the caches.
func (r *Reader) CacheStats() CacheStats {
	c := r.caches
	return CacheStats{
		EventBytes: c.records.WeightedSize() + c.redacted.WeightedSize() + c.edges.WeightedSize(),
		NodeBytes:  c.nodes.WeightedSize(),
		NameBytes: c.ids.WeightedSize() + c.nids.WeightedSize() + c.rooms.WeightedSize() + c.roomNIDs.WeightedSize() +
			c.types.WeightedSize() + c.typeNIDs.WeightedSize() + c.keys.WeightedSize() + c.keyNIDs.WeightedSize(),
	}
}

// lookup answers a list of keys from a cache and, for the rest, from the
// database. Keys that do not exist are missing in the result. q ends in a list
// of keys; scan reads one row, and touches nothing else. replicas is q for replicas, or nil.
func lookup[K comparable, V any](ctx context.Context, r *Reader, cache *otter.Cache[K, V], replicas *sqldb.Immutable, keys []K, arg func(K) any, q string,
	scan func(row func(...any) error) (K, V, error)) (map[K]V, error) {
	out := make(map[K]V, len(keys))
	var rest []any
	var asked map[K]struct{} // what is not in the cache
	for _, k := range keys {
		if _, ok := out[k]; ok {
			continue
		}
		if _, ok := asked[k]; ok {
			continue
		}
		if v, ok := cache.GetIfPresent(k); ok {
			out[k] = v
			continue
		}
		if asked == nil {
			asked = make(map[K]struct{})
		}
		asked[k] = struct{}{}
		rest = append(rest, arg(k))
	}
	if len(rest) == 0 {
		return out, nil
	}
	if replicas.Ready() {
		lookupOnReplica(ctx, r, cache, replicas, rest, out, scan)
		rest = rest[:0]
		for k := range asked {
			if _, ok := out[k]; !ok {
				rest = append(rest, arg(k))
			}
		}
	}
	err := sqldb.Chunk(rest, func(part []any) error {
		return r.each(ctx, q, nil, part, func(row func(...any) error) error {
			k, v, err := scan(row)
			if err != nil {
				return err
			}
			out[k] = v
			if r.fill {
				cache.Set(k, v)
			}
			return nil
		})
	})
	return out, err
}

// each runs a query and calls fn for every row. The list, if any, is appended to
// the query as "(…)".
func (r *Reader) each(ctx context.Context, q string, args, list []any, fn func(row func(...any) error) error) (err error) {
	if list != nil {
		q, args = inList(q, args, list)
	}
	return r.rows(ctx, q, args, fn)
}

// inList appends a list to a query that ends in "IN ".
func inList(q string, args, list []any) (string, []any) {
	in, args := sqldb.InArgs(args, list)
	return q + in, args
}

// rows runs a query and calls fn for every row.
func (r *Reader) rows(ctx context.Context, q string, args []any, fn func(row func(...any) error) error) (err error) {
	rows, err := r.q.Query(ctx, q, args...)
	if err != nil {
		return fmt.Errorf("eventstore: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return fmt.Errorf("eventstore: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("eventstore: %w", err)
	}
	return nil
}
