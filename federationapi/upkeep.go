package federationapi

import (
	"context"
	"fmt"
	"time"

	"weft/internal/upkeep"
	"weft/matrix/id"
)

const (
	// deadFor is after how long without an answer a server counts as dead: what it lacks of
	// device lists it will see by the gap and ask for.
	deadFor = 30 * 24 * time.Hour

	deadSQL           = `SELECT server FROM fed_destinations WHERE failures >= $1 AND failing_ts <= $2`
	deleteDeadEDUsSQL = `DELETE FROM fed_edus WHERE seq IN (SELECT seq FROM fed_edus WHERE server = $1 ORDER BY seq LIMIT $2)`
)

// upkeep lists what goes by itself: EDUs for servers that are dead. That they have failed for so long is not enough, for one for which
// nothing waited was not tried meanwhile: they must have failed as often as one that is tried once in MaxBackoff. Nor is that, for one that we
// hear from is tried all the time.
func (s *Server) upkeep() []upkeep.Task {
	return []upkeep.Task{{Kind: "edus_of_dead_servers", Every: 24 * time.Hour, Run: func(ctx context.Context) (removed int64, err error) {
		dead, err := s.out.store.listDead(ctx, int(deadFor/s.out.limits.MaxBackoff), s.out.cfg.Now().Add(-deadFor).UnixMilli())
		for _, server := range dead {
			if err != nil {
				break
			}
			var n int64
			n, err = upkeep.Delete(ctx, s.DB, deleteDeadEDUsSQL, string(server))
			removed += n
		}
		return removed, err
	}}}
}

// listDead lists destinations that failed so many times in a row, the first time at a time or before.
func (st outStore) listDead(ctx context.Context, failures int, since int64) (out []id.Server, err error) {
	rows, err := st.db.Query(ctx, deadSQL, failures, since)
	if err != nil {
		return nil, fmt.Errorf("federationapi: reading destinations: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var server id.Server
		if err := rows.Scan(&server); err != nil {
			return nil, fmt.Errorf("federationapi: reading destinations: %w", err)
		}
		out = append(out, server)
	}
	return out, rows.Err()
}
