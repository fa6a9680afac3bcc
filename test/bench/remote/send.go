package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"weft/internal/fedclient"
	"weft/matrix/event"
	"weft/matrix/id"
)

const (
	// defaultRetry is how long to wait where an overloaded server does not say it,
	// maxRetry the most that it is waited, whatever it says.
	defaultRetry = time.Second
	maxRetry     = time.Minute
	// maxRetries bounds how often one transaction is sent.
	maxRetries = 100
)

// Sent is what became of a series of transactions.
type Sent struct {
	// Latencies are from the first byte of a transaction to its whole answer, one for
	// each transaction, in the order in which they were sent. Time that the server
	// asked to wait is not in them.
	Latencies []time.Duration
	// Shed is how often the server answered 429 or 503, after which the transaction
	// was sent again.
	Shed int
	// Took is from the first transaction to the last answer.
	Took time.Duration
}

// Send sends events to a server under test, at most 50 in a transaction, one
// transaction after another. It fails where an event is refused. Transactions come
// from the main server, whose users send the events of inflows. When it
// returns the server has accepted the events; see Room.AwaitEvent for when they are
// to be seen.
//
// spec: server-server §4, PUT /_matrix/federation/v1/send/{txnId}
func (s *Server) Send(ctx context.Context, target id.Server, events []*event.Event) (*Sent, error) {
	out := &Sent{}
	began := time.Now()
	for batch := range slices.Chunk(events, fedclient.MaxPDUs) {
		if err := s.sendBatch(ctx, target, batch, out); err != nil {
			return nil, err
		}
	}
	out.Took = time.Since(began)
	return out, nil
}

func (s *Server) sendBatch(ctx context.Context, target id.Server, batch []*event.Event, out *Sent) error {
	txn := fedclient.Transaction{
		ID: strconv.FormatInt(s.opts.Now().UnixMilli(), 10) + "-" + strconv.FormatInt(s.txn.Add(1), 10), OriginServerTS: s.opts.Now().UnixMilli(),
	}
	for _, e := range batch {
		txn.PDUs = append(txn.PDUs, json.RawMessage(e.JSON()))
	}
	for range maxRetries {
		began := time.Now()
		failed, err := s.identities[0].client.SendTransaction(ctx, target, txn)
		took := time.Since(began)
		if wait, shed := overloaded(err); shed {
			out.Shed++
			if err := pause(ctx, wait); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("remote: sending %d events to %s: %w", len(batch), target, err)
		}
		out.Latencies = append(out.Latencies, took)
		var refused []error
		for eventID, why := range failed {
			refused = append(refused, fmt.Errorf("remote: %s refused the event %s: %s", target, eventID, why))
		}
		return errors.Join(refused...)
	}
	return fmt.Errorf("remote: %s was overloaded %d times in a row", target, maxRetries)
}

// overloaded tells whether a server asks to be left alone for a while, and how long.
func overloaded(err error) (time.Duration, bool) {
	refusal, ok := fedclient.AsRemote(err)
	if !ok || refusal.Status != http.StatusTooManyRequests && refusal.Status != http.StatusServiceUnavailable {
		return 0, false
	}
	if ms, ok := refusal.Remote.Extra["retry_after_ms"].(float64); ok && ms > 0 {
		return min(time.Duration(ms)*time.Millisecond, maxRetry), true
	}
	return defaultRetry, true
}

// pause waits as long as ctx lasts.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
