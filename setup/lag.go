package setup

import (
	"context"
	"fmt"
	"time"

	"weft/federationapi"
	"weft/syncapi"
)

// Lag is what a server has yet to do, all its processes together, as its database tells it. That of sending and of following is nil where no
// process has run the component yet. Of each table no more than CountMost rows are counted, so that the numbers are that many or more where
// they reach it; of staged events, those in so many rows.
type Lag struct {
	// Staged counts events of other servers that are stored and not processed yet, in so many rooms.
	Staged      int64 `json:"staged_events"`
	StagedRooms int64 `json:"staged_rooms"`
	// StagedMore: there may be more.
	StagedMore bool `json:"staged_more"`
	// StagedOldest is how long the first of them waits, in seconds, by this machine's clock.
	StagedOldest float64 `json:"staged_oldest_seconds"`

	Federation *federationapi.Lag `json:"federation"`
	Follower   *FollowerLag       `json:"sync_follower"`
}

// FollowerLag is that of what follows from events for /sync: relations and notifications.
type FollowerLag struct {
	// Positions is how many of the event stream are left.
	Positions int64 `json:"positions"`
	// Fewer: there may be fewer, or none, because the follower does not write its place at each position that holds nothing for it.
	Fewer bool `json:"or_fewer"`
}

// CountMost is how many rows of a table are counted.
const CountMost = countMost

// existsSQL tells whether a table is there, on PostgreSQL.
const existsSQL = `SELECT CASE WHEN to_regclass($1) IS NULL THEN 0 ELSE 1 END`

// lag reads it, from the primary keys of a few rows and the first CountMost rows of three tables: some ms.
func (s *Server) lag(ctx context.Context) (l Lag, err error) {
	staged, err := s.events.StagedTotal(ctx, CountMost)
	if err != nil {
		return l, err
	}
	l.Staged, l.StagedRooms, l.StagedMore = staged.Events, staged.Rooms, staged.Rows >= CountMost
	l.StagedOldest = age(staged.Oldest, s.opts.Now()).Round(time.Millisecond).Seconds()
	if there, err := s.has(ctx, "fed_cursor"); err != nil {
		return l, err
	} else if there {
		sending, err := federationapi.ReadLag(ctx, s.db, CountMost)
		if err != nil {
			return l, err
		}
		l.Federation = &sending
	}
	if there, err := s.has(ctx, "sync_followers"); err != nil {
		return l, err
	} else if there {
		positions, err := syncapi.ReadLag(ctx, s.db)
		if err != nil {
			return l, err
		}
		l.Follower = &FollowerLag{positions, positions > 0 && positions < syncapi.LazyPositions}
	}
	return l, nil
}

// has tells whether a component has made its table. A look at a server does not make it.
func (s *Server) has(ctx context.Context, table string) (bool, error) {
	var there int
	if err := s.db.QueryRow(ctx, existsSQL, table).Scan(&there); err != nil {
		return false, fmt.Errorf("database: looking for the table %s: %w", table, err)
	}
	return there == 1, nil
}
