package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// proxy is a cable: TCP connections go through it to one place, and it can be cut, so that they hang without a word, as when a
// switch fails; be pulled out, so that they break and none is made; or be long.
type proxy struct {
	network, target string
	listener        net.Listener
	from            func(port int) *node // who is at the other end of a connection; nil where nobody asks

	mu      sync.Mutex
	changed chan struct{} // closed when one of the next three changes
	cut     bool
	cutFrom map[*node]bool // connections of these hang too
	delay   time.Duration  // of what goes through, each way
	pulled  bool
	conns   map[net.Conn]bool
	done    chan struct{}
	work    sync.WaitGroup
}

// newProxy makes a proxy that runs until the test ends.
func newProxy(t testing.TB, network, target string, from func(port int) *node) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{network: network, target: target, listener: l, from: from, changed: make(chan struct{}), cutFrom: map[*node]bool{},
		conns: map[net.Conn]bool{}, done: make(chan struct{})}
	p.work.Go(p.accept)
	t.Cleanup(func() {
		close(p.done)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		p.reset()
		p.work.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

// set changes the weather.
func (p *proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *proxy) setCut(cut bool)          { p.set(func() { p.cut = cut }) }
func (p *proxy) setDelay(d time.Duration) { p.set(func() { p.delay = d }) }

func (p *proxy) setCutFrom(n *node, cut bool) { p.set(func() { p.cutFrom[n] = cut }) }

// setPulled breaks all connections, and takes none while it is so.
func (p *proxy) setPulled(pulled bool) {
	p.set(func() { p.pulled = pulled })
	if pulled {
		p.reset()
	}
}

// reset breaks all connections.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		hangUp(c)
	}
}

// hangUp ends a connection with RST where it can.
func hangUp(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // else it ends with FIN
	}
	_ = c.Close() // it may have ended
}

// keep notes a connection; false: there shall be none.
func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return false
	default:
	}
	if !p.pulled {
		p.conns[c] = true
	}
	return !p.pulled
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close() // it may have ended
}

// pass waits until bytes may go through; false: the test is over.
func (p *proxy) pass(from *node) bool {
	for {
		p.mu.Lock()
		cut, changed := p.cut || from != nil && p.cutFrom[from], p.changed
		p.mu.Unlock()
		if !cut {
			return true
		}
		select {
		case <-changed:
		case <-p.done:
			return false
		}
	}
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return // closed at the end of the test
		}
		p.work.Go(func() { p.carry(c) })
	}
}

// carry carries a connection until one side ends it.
func (p *proxy) carry(c net.Conn) {
	if !p.keep(c) {
		hangUp(c)
		return
	}
	defer p.drop(c)
	var from *node
	if p.from != nil {
		from = p.from(c.RemoteAddr().(*net.TCPAddr).Port)
	}
	if !p.pass(from) {
		return
	}
	out, err := net.Dial(p.network, p.target)
	if err != nil {
		hangUp(c)
		return
	}
	if !p.keep(out) {
		hangUp(out)
		return
	}
	defer p.drop(out)
	var both sync.WaitGroup
	both.Go(func() { p.copy(out, c, from) })
	both.Go(func() { p.copy(c, out, from) })
	both.Wait()
}

// piece is what was read at once, or how reading ended.
type piece struct {
	data []byte
	due  time.Time // when it is to come out
	err  error
}

// copy carries bytes one way; the end of a connection takes the same way. What is read meanwhile does not wait for what is on its way.
func (p *proxy) copy(to, source net.Conn, from *node) {
	way, stop := make(chan piece, 64), make(chan struct{})
	p.work.Go(func() { p.read(source, way, stop) })
	defer close(stop)
	for {
		var next piece
		select {
		case next = <-way:
		case <-p.done:
			return
		}
		if left := time.Until(next.due); left > 0 {
			select {
			case <-time.After(left):
			case <-p.done:
				return
			}
		}
		if !p.pass(from) {
			return
		}
		err := next.err
		if len(next.data) > 0 {
			if _, errWrite := to.Write(next.data); errWrite != nil {
				err = errWrite
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = to.Close() // nobody here speaks on after the other has ended
			return
		case err != nil:
			hangUp(to)
			hangUp(source)
			return
		}
	}
}

// read reads a connection to its end, or until nobody takes what it reads.
func (p *proxy) read(source net.Conn, way chan<- piece, stop <-chan struct{}) {
	for {
		buf := make([]byte, 16<<10)
		n, err := source.Read(buf)
		p.mu.Lock()
		due := time.Now().Add(p.delay)
		p.mu.Unlock()
		select {
		case way <- piece{buf[:n], due, err}:
		case <-stop:
			return
		}
		if err != nil {
			return
		}
	}
}

// proxied gives a database's URL by way of a proxy.
func proxied(t testing.TB, database string) (through string, p *proxy) {
	t.Helper()
	u, err := url.Parse(database)
	must(t, err)
	q := u.Query()
	folder := q.Get("host")
	if !strings.HasPrefix(folder, "/") {
		t.Fatalf("the database is not at a socket: %s", database)
	}
	p = newProxy(t, "unix", filepath.Join(folder, ".s.PGSQL.5432"), nil)
	q.Del("host")
	u.Host, u.RawQuery = p.address(), q.Encode()
	return u.String(), p
}

// whose finds the node to which a local TCP port belongs; nil: to none that runs.
func (c *cluster) whose(port int) *node {
	socket, err := socketOf(port)
	if err != nil {
		c.t.Errorf("whose connection it is: %v", err)
		return nil
	}
	if socket == "" {
		return nil
	}
	for _, n := range c.nodes {
		pid := n.pid()
		if pid == 0 {
			continue
		}
		folder := fmt.Sprintf("/proc/%d/fd", pid)
		list, err := os.ReadDir(folder)
		if err != nil {
			continue // it has just ended
		}
		for _, fd := range list {
			if link, err := os.Readlink(filepath.Join(folder, fd.Name())); err == nil && link == socket {
				return n
			}
		}
	}
	return nil
}

// socketOf names the socket of a local TCP port as /proc/PID/fd does; empty: there is none any more.
func socketOf(port int) (string, error) {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it was read
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			continue
		}
		_, local, _ := strings.Cut(f[1], ":")
		// Its own end of the connection; the listener's has the port as the remote one.
		if n, err := strconv.ParseUint(local, 16, 16); err == nil && int(n) == port {
			return "socket:[" + f[9] + "]", nil
		}
	}
	return "", lines.Err()
}
