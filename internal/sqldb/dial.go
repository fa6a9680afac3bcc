package sqldb

import (
	"context"
	"net"
	"time"
)

// silenceLimit is for how long a PostgreSQL server may be silent on the wire (its machine lost power, the network dropped it)
// before its connections break. Who waits there then runs again, on a server that answers. By the defaults of
// the systems that is 15 minutes for a statement that is not acknowledged. A server that is busy with a statement is not silent: its
// machine answers for it.
const silenceLimit = 10 * time.Second

// dialer opens connections to PostgreSQL that notice when the other side is gone. It implements pq.Dialer and
// pq.DialerContext.
type dialer struct{ net.Dialer }

func newDialer() *dialer {
	return &dialer{net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silenceLimit / 2, Interval: silenceLimit / 10, Count: 5},
		Control:         limitUnacknowledged,
	}}
}

// DialTimeout implements pq.Dialer.
func (d *dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}
