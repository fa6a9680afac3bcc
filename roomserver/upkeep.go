package roomserver

import (
	"context"
	"math/rand/v2"
	"time"

	"weft/internal/eventstore/write"
	"weft/internal/upkeep"
)

const (
	// sweepEvery is the time between two sweeps, which read the whole event store. It is far
	// longer than any work that remembers roots or outliers.
	sweepEvery = 24 * time.Hour
	// clientTxnsFor is how long clients' transaction IDs are kept, for a client that was
	// offline or closed before the answer came and sends again, and that knows its own
	// message in /sync by unsigned.transaction_id. One that retries after that gets a second
	// event.
	clientTxnsFor = 24 * time.Hour
	// answersFor is how long answers to other servers' transactions are kept.
	answersFor = 24 * time.Hour
)

// upkeep lists what goes by itself: state nodes and outliers that nothing refers to,
// transaction IDs that nobody will ask for.
func (s *Server) upkeep() []upkeep.Task {
	return []upkeep.Task{
		// Asked for more often, since several nodes ask, and some are restarted.
		{Kind: "state_nodes", Every: sweepEvery / 12, Run: func(ctx context.Context) (int64, error) {
			res, err := s.writer.Sweep(ctx, write.SweepOptions{Now: s.now(), MinInterval: sweepEvery, Seed: rand.Uint64()})
			s.cfg.Upkeep.Count("outliers", res.Outliers)
			return res.Deleted, err
		}},
		{Kind: "client_txns", Every: time.Hour, Run: func(ctx context.Context) (int64, error) {
			return s.writer.DeleteTxns(ctx, s.now()-clientTxnsFor.Milliseconds())
		}},
		{Kind: "inbound_txns", Every: time.Hour, Run: func(ctx context.Context) (int64, error) {
			return s.writer.DeleteInboundTxns(ctx, s.now()-answersFor.Milliseconds())
		}},
	}
}
