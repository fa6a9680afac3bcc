package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"weft/internal/freeport"
	"weft/test/bench/proc"
	"weft/test/bench/remote"
)

const (
	// startTime bounds how long a server may take until it answers, stopTime until it ends when it is asked to.
	startTime, stopTime = 60 * time.Second, 30 * time.Second
	// pollTime is how often a starting server is asked.
	pollTime = 25 * time.Millisecond
)

// Process is a server that this program started.
type Process struct {
	Name  string
	URL   string // of the client–server API
	Admin string // of Go's profiles; empty: it has none
	// Federation is HOST:PORT of the server–server API in HTTPS; empty: it has none.
	Federation string
	PID        int
	// Folder holds its log, and its data where this program says where they go.
	Folder string
	// Cgroup holds it to its limits; nil: there are none.
	Cgroup *proc.Cgroup

	cmd   *exec.Cmd
	log   *os.File
	ended chan error
}

// Options say how a server is started.
type Options struct {
	// Env is added to the environment.
	Env []string
	// Limits are enforced by a cgroup below the group Parent.
	Limits proc.Limits
	Parent string
	// Authority makes the certificate of Weft and is trusted by it; nil: it has no federation.
	Authority *remote.Authority
}

// StartWeft starts the binary on free loopback ports, with open registration, without rate limits. The database is a postgres URL, or empty for SQLite in the folder.
func StartWeft(ctx context.Context, binary, name, serverName, database string, o Options) (*Process, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	p, err := newProcess(name, "http://"+ports[0])
	if err != nil {
		return nil, err
	}
	p.Admin = "http://" + ports[1]
	args := []string{"serve", "--server-name", serverName, "--data", p.Folder, "--listen", ports[0], "--admin-listen", ports[1],
		"--registration", "open", "--rate-limits=false", "--log-level", "warning"}
	if database != "" {
		args = append(args, "--database", database)
	}
	if o.Authority != nil {
		cert, key, err := o.Authority.WriteCertificate(p.Folder, "server", serverName, "127.0.0.1")
		if err != nil {
			return nil, errors.Join(err, p.remove())
		}
		p.Federation = ports[2]
		args = append(args, "--listen-tls", ports[2], "--tls-cert", cert, "--tls-key", key,
			"--federation-ca", o.Authority.File, "--federation-allow-private-addresses")
	}
	return p, p.start(ctx, append([]string{binary}, args...), o)
}

// StartCommand starts any server with a line of shell, which should say exec, and waits until it answers at url.
func StartCommand(ctx context.Context, line, name, url string, o Options) (*Process, error) {
	p, err := newProcess(name, url)
	if err != nil {
		return nil, err
	}
	return p, p.start(ctx, []string{"/bin/sh", "-c", line}, o)
}

func newProcess(name, url string) (*Process, error) {
	folder, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		return nil, err
	}
	return &Process{Name: name, URL: url, Folder: folder, ended: make(chan error, 1)}, nil
}

// gate waits for a line before the program begins, so that it is in its cgroup when it looks for the limits.
const gate = `read _ && exec "$@" </dev/null`

// start runs the program; when it fails nothing is left behind.
func (p *Process) start(ctx context.Context, args []string, o Options) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, p.remove())
		}
	}()
	if p.log, err = os.Create(filepath.Join(p.Folder, "log")); err != nil {
		return err
	}
	limited := o.Limits != (proc.Limits{})
	if limited {
		args = append([]string{"/bin/sh", "-c", gate, "sh"}, args...)
	}
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.Env = append(os.Environ(), o.Env...)
	ownGroup(p.cmd)
	open := func() error { return nil }
	if limited {
		in, err := p.cmd.StdinPipe()
		if err != nil {
			return err
		}
		open = func() error {
			_, err := in.Write([]byte("\n"))
			return errors.Join(err, in.Close())
		}
		if p.Cgroup, err = proc.NewCgroup(o.Parent, fmt.Sprintf("weft-bench-%d-%s", os.Getpid(), p.Name), o.Limits); err != nil {
			return err
		}
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.PID = p.cmd.Process.Pid
	go func() { p.ended <- p.cmd.Wait() }()
	if p.Cgroup != nil {
		if err := p.Cgroup.Add(p.PID); err != nil {
			return errors.Join(err, p.end())
		}
	}
	if err := errors.Join(open(), p.await(ctx)); err != nil {
		text, readErr := p.Log()
		return errors.Join(fmt.Errorf("%s: %w\n%s", p.Name, err, text), readErr, p.end())
	}
	return nil
}

// await asks until the server answers.
func (p *Process) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+"/_matrix/client/versions", nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			if closeErr := res.Body.Close(); closeErr == nil && res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-p.ended:
			p.ended <- err
			return fmt.Errorf("ended at once: %w", errors.Join(err, errors.New("no answer")))
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w", ctx.Err())
		case <-time.After(pollTime): // it says nowhere else that it is ready
		}
	}
}

// maxLog is how much of a log is shown.
const maxLog = 4000

// Log gives the end of what the server printed.
func (p *Process) Log() (string, error) {
	text, err := os.ReadFile(filepath.Join(p.Folder, "log"))
	return string(text[max(0, len(text)-maxLog):]), err
}

// Stop ends the server in order and removes what was made for it.
func (p *Process) Stop() (log string, err error) {
	err = p.end()
	log, logErr := p.Log()
	return log, errors.Join(err, logErr, p.remove())
}

// end asks the server to stop, and makes it where it does not.
func (p *Process) end() error {
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	select {
	case waitErr := <-p.ended:
		if !terminated(waitErr) {
			err = errors.Join(err, waitErr)
		}
	case <-time.After(stopTime):
		err = errors.Join(err, fmt.Errorf("%s did not stop within %v", p.Name, stopTime), p.cmd.Process.Kill())
		<-p.ended
	}
	return errors.Join(err, endGroup(p.PID))
}

func (p *Process) remove() error {
	var errs []error
	if p.log != nil {
		errs = append(errs, p.log.Close())
	}
	if p.Cgroup != nil {
		errs = append(errs, p.Cgroup.Remove())
	}
	return errors.Join(append(errs, os.RemoveAll(p.Folder))...)
}

// freePorts finds loopback addresses that nobody listens on.
func freePorts(n int) ([]string, error) {
	var out []string
	for range n {
		address, err := freeport.Address()
		if err != nil {
			return nil, err
		}
		out = append(out, address)
	}
	return out, nil
}
