package roomserver

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"weft/internal/fedclient/keyring"
	"weft/matrix/event"
)

// checkSignatures is step 2 of receiving a PDU, for many at once: it fetches the
// keys of all together and verifies in parallel, on no more processors than there are.
// It gives one error for each event, nil for the good ones. An event whose keys could not be asked for is not judged:
// its error is a laterError.
//
// spec: server-server §5.1.1 check 2; rooms/v5 (signing key validity period)
func (s *Server) checkSignatures(ctx context.Context, events []*event.Event) []error {
	errs := make([]error, len(events))
	keys, fetchErr := s.cfg.Keys.FetchFor(ctx, events)
	var wg sync.WaitGroup
	for i, ev := range events {
		s.verify <- struct{}{}
		wg.Go(func() {
			defer func() { <-s.verify }()
			err := ev.VerifySignatures(keys)
			if err != nil && fetchErr != nil {
				if err = fmt.Errorf("%w (%w)", err, fetchErr); unreached(fetchErr) || ctx.Err() != nil || errors.Is(fetchErr, keyring.ErrStore) {
					err = &laterError{err}
				}
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errs
}
