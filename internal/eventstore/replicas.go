package eventstore

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"weft/internal/nid"
	"weft/internal/sqldb"
)

// immutable are the statements that read replicas may be asked (see the package's text).
type immutable struct {
	json, nodes, types, keys *sqldb.Immutable
	settled                  *settled
}

func newImmutable(db *sqldb.DB) immutable {
	return immutable{
		json: db.Immutable(jsonSQL, 0), nodes: db.Immutable(nodesSQL, 0), types: db.Immutable(typesSQL, 0), keys: db.Immutable(stateKeysSQL, 0),
		settled: &settled{},
	}
}

// lookupOnReplica puts what a replica has of a list of keys into out and the cache.
func lookupOnReplica[K comparable, V any](ctx context.Context, r *Reader, cache *otter.Cache[K, V], replicas *sqldb.Immutable, list []any, out map[K]V,
	scan func(row func(...any) error) (K, V, error)) {
	type pair struct {
		k K
		v V
	}
	for ; len(list) > 0; list = list[min(sqldb.ChunkSize, len(list)):] {
		a := sqldb.Ask(ctx, replicas, nil, list[:min(sqldb.ChunkSize, len(list))], func(row func(...any) error) (p pair, err error) {
			p.k, p.v, err = scan(row)
			return p, err
		})
		for _, p := range a.Rows(ctx) {
			out[p.k] = p.v
			if r.fill {
				cache.Set(p.k, p.v)
			}
		}
	}
}

const (
	// The ID tells that both databases mean the same event by a number.
	jsonSQL = `SELECT event_nid, event_id, json FROM events WHERE event_nid IN `
	// The JSON of events above a number comes at once.
	headsSQL = `SELECT event_nid, room_nid, type_nid, state_key_nid, event_id, auth_nids, CASE WHEN event_nid > $1 THEN json END
		FROM events WHERE event_nid IN `
)

// splitRecords reads the rows of records from two databases at the same time: the JSON from a replica, which is most of it, the rest
// from the primary. It reports false, and nothing, where no replica is asked.
func (r *Reader) splitRecords(ctx context.Context, events []any) (raws []*rawRecord, asked bool, err error) {
	mark, old := r.immutable.settled.upTo(events, r.immutable.json.Now())
	answer := sqldb.Ask(ctx, r.immutable.json, nil, old, func(row func(...any) error) (*rawRecord, error) {
		w := &rawRecord{}
		return w, row(&w.nid, &w.id, &w.json)
	})
	if answer == nil {
		return nil, false, nil
	}
	err = r.each(ctx, headsSQL, []any{mark}, events, func(row func(...any) error) error {
		w := &rawRecord{}
		raws = append(raws, w)
		return row(&w.nid, &w.room, &w.typ, &w.key, &w.id, &w.set, &w.json)
	})
	if err != nil {
		return nil, true, err
	}
	found := make(map[nid.Event]*rawRecord, len(old))
	for _, w := range answer.Rows(ctx) {
		found[w.nid] = w
	}
	lacking := make(map[nid.Event]*rawRecord)
	for _, w := range raws {
		if f := found[w.nid]; f != nil && bytes.Equal(f.id, w.id) {
			w.json = f.json
		} else if int64(w.nid) <= mark {
			lacking[w.nid] = w
		}
	}
	err = r.chunked(ctx, jsonSQL, nil, keysOf(lacking), func(row func(...any) error) error {
		var n nid.Event
		var id, json []byte
		if err := row(&n, &id, &json); err != nil {
			return err
		}
		lacking[n].json = json
		return nil
	})
	// What has none was deleted between the two statements.
	return slices.DeleteFunc(raws, func(w *rawRecord) bool { return w.json == nil }), true, err
}

// settleTime is after which time an event is expected to be on the replicas: they are mostly some milliseconds behind.
const settleTime = time.Second

// settled guesses which events the replicas have, so that they are not asked in vain for what another process has written just now. The
// numbers of events grow with time, nearly. A wrong guess costs time only.
type settled struct {
	mu   sync.Mutex
	next time.Time
	// highest is the highest number that was read, before what it was at the last turn, mark at the one before: so that was
	// read longer than settleTime ago.
	highest, before, mark int64
}

// upTo gives the highest number of an event that should be there, and those of a list that are not above it.
func (s *settled) upTo(events []any, now time.Time) (mark int64, old []any) {
	s.mu.Lock()
	if !now.Before(s.next) {
		s.mark, s.before, s.next = s.before, s.highest, now.Add(settleTime)
	}
	for _, n := range events {
		s.highest = max(s.highest, n.(int64))
	}
	mark = s.mark
	s.mu.Unlock()
	old = make([]any, 0, len(events))
	for _, n := range events {
		if n.(int64) <= mark {
			old = append(old, n)
		}
	}
	return mark, old
}
