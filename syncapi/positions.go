package syncapi

import (
	"context"
	"fmt"
	"sync"

	"weft/internal/sqldb"
)

// positions reads the newest positions of all streams. Requests that ask at the same time share a query; each gets
// positions that were read after it asked, so that a client sees what was acknowledged to it before. For those that
// are woken, their waker asks.
type positions struct {
	db *sqldb.DB

	mu      sync.Mutex
	next    *positionRead // not begun yet, and perhaps never awaited
	reading bool
}

// positionRead is one query and those who wait for it.
type positionRead struct {
	done chan struct{}
	to   vector
	err  error
}

// read gives the positions.
func (p *positions) read(ctx context.Context) (vector, error) { return p.await(ctx, p.ask()) }

// ask gives the next read, which begins after this and at the latest when somebody awaits it.
func (p *positions) ask() *positionRead {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == nil {
		p.next = &positionRead{done: make(chan struct{})}
	}
	return p.next
}

// await gives what a read found; it reads if nobody does.
func (p *positions) await(ctx context.Context, r *positionRead) (vector, error) {
	p.mu.Lock()
	if r != p.next || p.reading {
		p.mu.Unlock()
		select {
		case <-r.done:
			return r.to, r.err
		case <-ctx.Done():
			return vector{}, fmt.Errorf("waiting for the positions: %w", context.Cause(ctx))
		}
	}
	p.reading, p.next = true, nil
	p.mu.Unlock()
	p.run(ctx, r)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reading = p.next != nil; p.reading {
		go p.others(context.WithoutCancel(ctx))
	}
	return r.to, r.err
}

// run reads for all who wait for r, so the end of one request must not end it.
func (p *positions) run(ctx context.Context, r *positionRead) {
	defer close(r.done)
	r.to, r.err = position(context.WithoutCancel(ctx), p.db)
}

// others reads for those who came in the meantime.
func (p *positions) others(ctx context.Context) {
	for {
		p.mu.Lock()
		r := p.next
		p.next, p.reading = nil, r != nil
		p.mu.Unlock()
		if r == nil {
			return
		}
		p.run(ctx, r)
	}
}
