package scenario

import (
	"context"
)

// idle watches a server that nobody asks anything: an operation is a second.
func idle(ctx context.Context, e *Env, name string) error {
	m := e.meter(name)
	m.start(ctx)
	pause(ctx, e.Sizes.Idle)
	m.row.Operations = max(1, int(e.Sizes.Idle.Seconds()))
	m.stop(ctx)
	m.finish()
	return ctx.Err()
}
