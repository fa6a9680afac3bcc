package roomserver

import (
	"context"
	"math/rand/v2"
	"time"

	"weft/internal/eventstore/write"
	"weft/internal/sqldb"
)

const (
	sweepEvery = time.Hour
	// clientTxnsFor is how long clients' transaction IDs are kept: a client that
	// retries after that gets a second event.
	clientTxnsFor = 7 * 24 * time.Hour
	// answersFor is how long answers to other servers' transactions are kept.
	answersFor = 24 * time.Hour
)

// sweepLoop tidies up every hour: state nodes that nothing refers to, transaction IDs
// that nobody will ask for. Several nodes may do so at once.
func (s *Server) sweepLoop(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.Sweep(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// Sweep tidies up once. A failure is logged: the next sweep does what this one left.
func (s *Server) Sweep(ctx context.Context) {
	res, err := s.writer.Sweep(ctx, write.SweepOptions{Now: s.now(), MinInterval: sweepEvery, Seed: rand.Uint64()})
	s.metrics.swept.Add(float64(res.Deleted))
	if err == nil {
		err = s.db.Update(ctx, func(tx *sqldb.Tx) error {
			if err := s.writer.DeleteTxns(ctx, tx, s.now()-clientTxnsFor.Milliseconds()); err != nil {
				return err
			}
			return s.writer.DeleteInboundTxns(ctx, tx, s.now()-answersFor.Milliseconds())
		})
	}
	if err != nil && ctx.Err() == nil {
		s.log.WithError(err).Error("housekeeping failed")
		return
	}
	if res.Deleted > 0 {
		s.log.WithField("nodes", res.Deleted).Info("unused state removed")
	}
}
