package main

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	_ "github.com/lib/pq" // the driver named postgres
	"golang.org/x/sync/errgroup"

	"weft/internal/roundrobin"
	"weft/setup"
)

// environment of a server of several processes for a conformance suite. The database is of whoever runs the suite; each
// container has a schema of its own there, by its host name, which it keeps when it is stopped and started.
const (
	envNodes    = "WEFT_CONFORMANCE_NODES"    // how many equal processes, or "components": one for each
	envDatabase = "WEFT_CONFORMANCE_DATABASE" // postgres://…
	envNode     = "WEFT_CONFORMANCE_NODE"     // in each of them: its number
)

// The ports of the first process; the others follow.
const (
	firstNodePort  = 18000
	firstAdminPort = 19000
)

// settleTime is how long the processes may take to share the work.
const settleTime = 30 * time.Second

// nodesOf tells which components the processes of a server have.
func nodesOf(c *setup.Config) ([][]string, error) {
	said := os.Getenv(envNodes)
	switch {
	case said == "":
		return nil, nil
	case os.Getenv(envDatabase) == "":
		return nil, fmt.Errorf("%s needs %s", envNodes, envDatabase)
	case said == "components":
		var each [][]string
		for _, name := range c.Components {
			each = append(each, []string{name})
		}
		return each, nil
	}
	n, err := strconv.Atoi(said)
	if err != nil || n < 1 || n > 9 {
		return nil, fmt.Errorf("%s: %q is neither a number of processes from 1 to 9 nor \"components\"", envNodes, said)
	}
	each := make([][]string, n)
	for i := range each {
		each[i] = c.Components
	}
	return each, nil
}

// asNode makes the configuration that of one of several processes.
func asNode(c *setup.Config, i int, components []string) (err error) {
	c.DataDir = filepath.Join(c.DataDir, "node"+strconv.Itoa(i))
	c.Listeners, c.AdminListen = []setup.Listener{{Address: nodeAddress(i)}}, adminAddress(i)
	c.Components, c.DatabaseConnections = components, 8
	c.Database, err = schemaURL()
	return err
}

func nodeAddress(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(firstNodePort+i)) }

func adminAddress(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(firstAdminPort+i)) }

// settled waits until each process has its share of the work: what is sent to other servers waits for that, too.
func settled(ctx context.Context, nodes int) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < nodes; {
		if share, err := shareOf(ctx, i); err == nil && share > 0 {
			i++
			continue
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("process %d has no share of the work: %w", i, ctx.Err())
		}
	}
	return nil
}

// shareOf asks a process for its share.
func shareOf(ctx context.Context, i int) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+adminAddress(i)+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "\nweft_cluster_share ")
	value, _, _ := strings.Cut(rest, "\n")
	return strconv.ParseFloat(value, 64)
}

// schema names the schema of this container.
func schema() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	return "c_" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(host)), nil
}

func schemaURL() (string, error) {
	u, err := url.Parse(os.Getenv(envDatabase))
	if err != nil {
		return "", fmt.Errorf("%s: %w", envDatabase, err)
	}
	name, err := schema()
	if err != nil {
		return "", err
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return u.String(), nil
}

func makeSchema(ctx context.Context) (err error) {
	name, err := schema()
	if err != nil {
		return err
	}
	db, err := sql.Open("postgres", os.Getenv(envDatabase))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS "+name)
	return err
}

// serveNodes runs the processes and gives each request to the next of them, until ctx ends or a process does.
func serveNodes(ctx context.Context, c *setup.Config, nodes int) error {
	if err := makeSchema(ctx); err != nil {
		return fmt.Errorf("%s: %w", envDatabase, err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for i := range nodes {
		cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
		cmd.Env = append(os.Environ(), envNode+"="+strconv.Itoa(i))
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		group.Go(func() error {
			err := cmd.Run()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("process %d ended: %w", i, err)
		})
	}
	if err := settled(ctx, nodes); err != nil {
		return errors.Join(err, group.Wait())
	}
	addresses := make([]string, nodes)
	for i := range addresses {
		addresses[i] = nodeAddress(i)
	}
	balancer := roundrobin.New(addresses, os.Stderr)
	defer balancer.Close()
	front := &http.Server{Handler: balancer}
	for _, l := range c.Listeners {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.Address)
		if err != nil {
			return err
		}
		if l.TLS.Certificate != "" {
			cert, err := tls.LoadX509KeyPair(l.TLS.Certificate, l.TLS.Key)
			if err != nil {
				return err
			}
			listener = tls.NewListener(listener, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}})
		}
		group.Go(func() error {
			if err := front.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	group.Go(func() error {
		<-ctx.Done()
		return front.Close()
	})
	return group.Wait()
}
