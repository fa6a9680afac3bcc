package cluster

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/internal/freeport"
	"weft/internal/sqldb/sqldbtest"
)

const serverName = "cluster.localhost"

// shutdownDelay is longer than the test's balancer takes to take a node out, also where the machine is slow.
const shutdownDelay = 4 * time.Second

// What go test is told: make test says nothing, make test-cluster -weather, make chaos -chaos.
var (
	weather   = flag.Bool("weather", false, "run the long tests too: all kinds of bad weather")
	chaos     = flag.Duration("chaos", 0, "how long the chaos run makes random faults; 0: not at all")
	chaosSeed = flag.Uint64("chaos-seed", 0, "what its faults are chosen by; 0: a new one")
)

// binary is the server, faulty the same with faults inside (test/cluster/node), which is built where it is asked for.
var binary, faulty string

// long skips a test that make test has no time for.
func long(t *testing.T) {
	t.Helper()
	if !*weather {
		t.Skip("run by make test-cluster")
	}
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "weft-cluster")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	flag.Parse()
	binary, faulty = filepath.Join(dir, "weft"), filepath.Join(dir, "node")
	programs := map[string]string{binary: "weft/cmd/weft"}
	if *weather {
		programs[faulty] = "weft/test/cluster/node"
	}
	for to, program := range programs {
		if out, err := exec.Command("go", "build", "-o", to, program).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the server: %v\n%s", err, out)
			return 1
		}
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
	env   []string // beside the test's own
	inner bool     // it is the program with faults inside
	other string   // another program, instead of the one of this tree

	// What its connections go through, where newStormy made it: to the database, and from the others to its bus and for the
	// requests that they hand on.
	database, bus, http *proxy

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

// newStormy is newCluster with proxies between all: cables that can be cut. Its database is what it is given, or an empty one.
func newStormy(t testing.TB, n int, database string) *cluster {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("finds out in /proc whose a connection is")
	}
	if database == "" {
		database = sqldbtest.PostgresURL(t)
	}
	c := &cluster{t: t, database: database}
	for range n {
		c.addStormy()
	}
	return c
}

// addStormy adds a node whose connections go through proxies.
func (c *cluster) addStormy(args ...string) *node {
	c.t.Helper()
	through, database := proxied(c.t, c.database)
	bus, http := freeAddress(c.t), freeAddress(c.t)
	toBus, toHTTP := newProxy(c.t, "tcp", bus, c.whose), newProxy(c.t, "tcp", http, c.whose)
	n := c.add(append(args, "--database", through+"&application_name="+fmt.Sprintf("n%d", len(c.nodes)+1))...)
	n.env = []string{"WEFT_CLUSTER_LISTEN=" + bus, "WEFT_CLUSTER_ADVERTISE=" + toBus.address(), "WEFT_CLUSTER_HTTP_LISTEN=" + http,
		"WEFT_CLUSTER_HTTP_ADVERTISE=" + toHTTP.address()}
	n.database, n.bus, n.http = database, toBus, toHTTP
	return n
}

// cutOff makes the connections between a node and all others hang, or go on.
func (c *cluster) cutOff(n *node, cut bool) {
	for _, other := range c.nodes {
		for _, p := range []*proxy{other.bus, other.http} {
			if other == n {
				p.setCut(cut)
			} else {
				p.setCutFrom(n, cut)
			}
		}
	}
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
	address, err := freeport.Address()
	must(t, err)
	return address
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
	program, args := cmp.Or(n.other, binary), n.args
	if n.inner {
		program, args = faulty, joined(n.args[1:])
	}
	n.cmd = exec.Command(program, args...)
	n.cmd.Stdout, n.cmd.Stderr = &n.log, &n.log
	n.cmd.Env = append(append(os.Environ(), "WEFT_VERIFY=", "WEFT_SHUTDOWN_DELAY="+shutdownDelay.String()), n.env...)
	must(n.t, n.cmd.Start())
	n.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		n.result = cmd.Wait()
		close(exited)
	}(n.cmd, n.exited)
}

// joined makes --name=value of --name and value.
func joined(args []string) (out []string) {
	for _, arg := range args {
		if last := len(out) - 1; strings.HasPrefix(arg, "--") {
			out = append(out, arg)
		} else {
			out[last] += "=" + arg
		}
	}
	return out
}

func (n *node) await() {
	n.t.Helper()
	must(n.t, n.awaitErr())
}

// startLimit is how long a node may take until it answers, on a machine that has much to do.
const startLimit = time.Minute

// awaitErr waits until a node answers.
func (n *node) awaitErr() error {
	limit := time.After(startLimit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !n.answers() {
		select {
		case <-n.exited:
			return fmt.Errorf("%s ended: %w\n%s", n.name, n.result, n.log.String())
		case <-limit:
			return fmt.Errorf("%s does not answer after %s\n%s", n.name, startLimit, n.log.String())
		case <-tick.C:
		}
	}
	return nil
}

func (n *node) answers() bool {
	res, err := http.Get(n.base + "/_matrix/client/versions")
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, res.Body)
	return errors.Join(err, res.Body.Close()) == nil && res.StatusCode == http.StatusOK
}

// pid is the node's process; 0 when there is none.
func (n *node) pid() int {
	if !n.running() {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd.Process.Pid
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
