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

// silence bounds each wait of impatient connections for a byte, and so the time for which a server that is frozen keeps them.
const silence = 2 * time.Second

// impatient opens connections that break when the other side is silent while it is waited for, however well its machine is. lib/pq
// reads only what it waits for.
type impatient struct{ *dialer }

// DialContext implements pq.DialerContext.
func (d impatient) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return impatientConn{c}, nil
}

// DialTimeout implements pq.Dialer.
func (d impatient) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

type impatientConn struct{ net.Conn }

// Read implements net.Conn.
func (c impatientConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write implements net.Conn.
func (c impatientConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
