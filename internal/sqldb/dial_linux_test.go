package sqldb

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// A connection to a database that has gone silent breaks after silenceLimit, whether something is under way or not.
func TestDialerLimitsSilence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := newDialer().DialTimeout("tcp", l.Addr().String(), silenceLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(name int) (n int) {
		t.Helper()
		var get error
		if err := raw.Control(func(fd uintptr) { n, get = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, name) }); err != nil || get != nil {
			t.Fatal(err, get)
		}
		return n
	}
	if ms := option(unix.TCP_USER_TIMEOUT); ms != int(silenceLimit.Milliseconds()) {
		t.Errorf("TCP_USER_TIMEOUT %d ms", ms)
	}
	idle, interval, count := option(unix.TCP_KEEPIDLE), option(unix.TCP_KEEPINTVL), option(unix.TCP_KEEPCNT)
	if total := idle + interval*count; idle == 0 || total < int(silenceLimit.Seconds()) || total > int(silenceLimit.Seconds())*3/2 {
		t.Errorf("keepalives: %d s, then %d times after %d s", idle, count, interval)
	}
}
