package syncapi

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"weft/matrix/id"
)

// maxFence is how many positions a fence looks through; behind more of them everything is forgotten.
const maxFence = 1000

// fence keeps a cache right where other nodes change what is cached and the bus loses what they say of it: who asks
// the cache at a position of the stream that those changes move reaches that position first, and what changed
// up to it is forgotten. There is one for each cache, and only with Config.Shared.
type fence struct {
	reading sync.Mutex // one reads what changed, the others wait for it
	at      atomic.Int64
	// changed gives the users of whom something changed after a position. There is no end to look up to: what changes
	// once more takes a new position.
	changed func(ctx context.Context, from int64) ([]id.User, error)
	// forget drops what is kept of a user, clear all.
	forget func(ctx context.Context, user id.User) error
	clear  func()
}

// reach forgets what changed up to a position.
func (f *fence) reach(ctx context.Context, to int64) error {
	if f == nil || f.at.Load() >= to {
		return nil
	}
	f.reading.Lock()
	defer f.reading.Unlock()
	from := f.at.Load()
	switch {
	case from >= to:
		return nil
	case from == 0 || to-from > maxFence:
		f.clear()
	default:
		users, err := f.changed(ctx, from)
		if err != nil {
			return err
		}
		for _, u := range users {
			if err := f.forget(ctx, u); err != nil {
				return err
			}
		}
	}
	f.at.Store(to)
	return nil
}

const readersSQL = `SELECT DISTINCT user_id FROM receipts WHERE pos > $1`

// unreadFence guards unread counts by the stream of receipts.
func (s *Server) unreadFence() *fence {
	return &fence{clear: s.unread.Clear,
		changed: func(ctx context.Context, from int64) (out []id.User, err error) {
			rows, err := s.db.Query(ctx, readersSQL, from)
			if err != nil {
				return nil, fmt.Errorf("listing who read: %w", err)
			}
			defer rows.Close()
			for rows.Next() {
				var u id.User
				if err := rows.Scan(&u); err != nil {
					return nil, fmt.Errorf("listing who read: %w", err)
				}
				out = append(out, u)
			}
			return out, rows.Err()
		},
		forget: func(ctx context.Context, user id.User) error {
			if !s.isLocal(user) {
				return nil
			}
			n, err := s.events.UserNID(ctx, user)
			s.unread.forget(n)
			return err
		}}
}

// rulesFence guards push rules by the stream of account data.
func (f *follower) rulesFence() *fence {
	return &fence{clear: f.rules.clear, changed: f.s.cfg.Accounts.ListRuleChanges,
		forget: func(_ context.Context, user id.User) error {
			f.rules.forget(user)
			return nil
		}}
}
