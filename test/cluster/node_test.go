package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/internal/sqldb/sqldbtest"
)

const serverName = "cluster.localhost"

// shutdownDelay is longer than the test's balancer takes to take a node out, also where the machine is slow.
const shutdownDelay = 4 * time.Second

var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "weft-cluster")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	binary = filepath.Join(dir, "weft")
	if out, err := exec.Command("go", "build", "-o", binary, "weft/cmd/weft").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the server: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// node is one process of the cluster. Its address stays the same from start to start.
type node struct {
	t     testing.TB
	name  string
	base  string
	admin string // base URL of /health
	args  []string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
	result error // once exited is closed
	log    logBuffer
}

// logBuffer keeps the last megabyte or so of what a process wrote.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf.Len() > 1<<20 {
		l.buf.Reset()
	}
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// cluster is some nodes on one database.
type cluster struct {
	t        testing.TB
	database string
	nodes    []*node
}

// newCluster makes n nodes on an empty database; none is started.
func newCluster(t testing.TB, n int, args ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, database: sqldbtest.PostgresURL(t)}
	for range n {
		c.add(args...)
	}
	return c
}

func (c *cluster) add(args ...string) *node {
	c.t.Helper()
	return c.addWith(append([]string{"--server-name", serverName, "--registration", "open", "--rate-limits=false"}, args...)...)
}

// addWith makes a node that is told nothing but the database and what is given.
func (c *cluster) addWith(args ...string) *node {
	c.t.Helper()
	address, admin := freeAddress(c.t), freeAddress(c.t)
	n := &node{t: c.t, name: fmt.Sprintf("n%d", len(c.nodes)+1), base: "http://" + address, admin: "http://" + admin}
	n.args = append([]string{"serve", "--data", c.t.TempDir(), "--database", c.database + "&application_name=" + n.name,
		"--listen", address, "--admin-listen", admin}, args...)
	c.nodes = append(c.nodes, n)
	c.t.Cleanup(func() {
		n.kill()
		if c.t.Failed() {
			out := n.log.String()
			c.t.Logf("log of %s:\n%s", n.name, out[max(0, len(out)-8000):])
		}
	})
	return n
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}

// start starts all nodes at once and waits until they answer.
func (c *cluster) start() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.launch()
	}
	for _, n := range c.nodes {
		n.await()
	}
}

func (n *node) start() { n.launch(); n.await() }

func (n *node) launch() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cmd = exec.Command(binary, n.args...)
	n.cmd.Stdout, n.cmd.Stderr = &n.log, &n.log
	n.cmd.Env = append(os.Environ(), "WEFT_VERIFY=", "WEFT_SHUTDOWN_DELAY="+shutdownDelay.String())
	must(n.t, n.cmd.Start())
	n.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		n.result = cmd.Wait()
		close(exited)
	}(n.cmd, n.exited)
}

func (n *node) await() {
	n.t.Helper()
	until(n.t, 60*time.Second, n.name+" to answer", func() bool {
		select {
		case <-n.exited:
			n.t.Fatalf("%s ended: %v\n%s", n.name, n.result, n.log.String())
		default:
		}
		res, err := http.Get(n.base + "/_matrix/client/versions")
		if err != nil {
			return false
		}
		_, err = io.Copy(io.Discard, res.Body)
		return errors.Join(err, res.Body.Close()) == nil && res.StatusCode == http.StatusOK
	})
}

func (n *node) running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.exited == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

func (n *node) signal(s os.Signal) {
	if !n.running() {
		return
	}
	if err := n.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.t.Errorf("signal to %s: %v", n.name, err)
	}
}

// kill ends a process without a warning.
func (n *node) kill() {
	if n.running() {
		n.signal(syscall.SIGKILL)
		<-n.exited
	}
}

// stop ends a process as an administrator would.
func (n *node) stop() {
	n.t.Helper()
	n.signal(syscall.SIGTERM)
	select {
	case <-n.exited:
		if n.result != nil {
			n.t.Errorf("%s ended with %v\n%s", n.name, n.result, n.log.String())
		}
	case <-time.After(60 * time.Second):
		n.t.Errorf("%s did not stop", n.name)
		n.kill()
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("gave up waiting for %s after %s", what, limit)
		}
	}
}
