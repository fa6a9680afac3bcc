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

	deadSQL           = `SELECT server FROM fed_destinations WHERE failures >= $1`
	deleteDeadEDUsSQL = `DELETE FROM fed_edus WHERE seq IN (SELECT seq FROM fed_edus WHERE server = $1 ORDER BY seq LIMIT $2)`
)

// upkeep lists what goes by itself: EDUs for servers that are dead. Nothing notes since when a
// server has not answered, but how often it was tried, and that is once in MaxBackoff.
func (s *Server) upkeep() []upkeep.Task {
	return []upkeep.Task{{Kind: "edus_of_dead_servers", Every: 24 * time.Hour, Run: func(ctx context.Context) (removed int64, err error) {
		dead, err := s.out.store.listDead(ctx, int(deadFor/s.out.limits.MaxBackoff))
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

// listDead lists destinations that failed so many times in a row.
func (st outStore) listDead(ctx context.Context, failures int) (out []id.Server, err error) {
	rows, err := st.db.Query(ctx, deadSQL, failures)
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
