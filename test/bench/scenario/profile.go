package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// profileSeconds is the length of one CPU profile: net/http/pprof wants to know it beforehand, so a window is covered by
// several, which are merged in the end.
const profileSeconds = 2

// heap is the profile of memory, which holds what is in use and all that was ever allocated. It shows the state of the last
// garbage collection, so one is asked for.
const heap = "heap?gc=1"

// profile collects Go's profiles during the windows of a row: of several processes those of the CPU together, those of memory
// of the first.
type profile struct {
	admin, base string
	stop        chan struct{}
	work        sync.WaitGroup

	mu    sync.Mutex
	err   error
	parts []string
}

func startProfile(ctx context.Context, e *Env, row string) *profile {
	p := &profile{admin: strings.TrimSuffix(e.Target.Admin, "/"), stop: make(chan struct{}),
		base: filepath.Join(e.ProfileDir, e.Target.Name+"-"+row)}
	p.err = errors.Join(os.MkdirAll(e.ProfileDir, 0o755), p.fetch(ctx, p.admin, heap, p.base+".allocs.before"))
	for n, admin := range append([]string{p.admin}, e.Target.FurtherAdmins...) {
		p.work.Go(func() { p.cpu(ctx, admin, n) })
	}
	return p
}

// cpu fetches CPU profiles of the process n, one after the other.
func (p *profile) cpu(ctx context.Context, admin string, n int) {
	for i := 0; ; i++ {
		part := fmt.Sprintf("%s.cpu.%d.%d", p.base, n, i)
		err := p.fetch(ctx, admin, fmt.Sprintf("profile?seconds=%d", profileSeconds), part)
		p.mu.Lock()
		p.err = errors.Join(p.err, err)
		p.parts = append(p.parts, part)
		failed := p.err != nil
		p.mu.Unlock()
		select {
		case <-p.stop:
			return
		default:
		}
		if failed {
			return
		}
	}
}

// end waits for the last CPU profile, takes those of memory, and merges.
func (p *profile) end() error {
	close(p.stop)
	p.work.Wait()
	ctx := context.Background()
	err := errors.Join(p.err, p.fetch(ctx, p.admin, heap, p.base+".heap"))
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	if _, err := exec.LookPath("go"); err != nil {
		return nil // the parts are as good: pprof reads several files
	}
	if err := merge(p.base+".cpu", p.parts...); err != nil {
		return err
	}
	before := p.base + ".allocs.before"
	if err := merge(p.base+".allocs", "-base", before, p.base+".heap"); err != nil {
		return err
	}
	for _, part := range append(p.parts, before) {
		err = errors.Join(err, os.Remove(part))
	}
	return err
}

func merge(into string, args ...string) error {
	cmd := exec.Command("go", slices.Concat([]string{"tool", "pprof", "-proto", "-output", into}, args)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("profile: %w: %s", err, out)
	}
	return nil
}

func (p *profile) fetch(ctx context.Context, admin, what, into string) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, admin+"/debug/pprof/"+what, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", req.URL, res.Status)
	}
	f, err := os.Create(into)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, res.Body)
	return errors.Join(err, f.Close())
}
