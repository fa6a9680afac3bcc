package cluster

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A process that was frozen does not do what was asked of it before: its clients gave it up, had it done elsewhere, and something else after
// it. State has no transaction IDs that would tell.
func TestFrozenDoesNothingLate(t *testing.T) {
	long(t)
	c := newCluster(t, 3)
	c.start()
	frozen, others := c.nodes[0], newClient(t, c.nodes[1:])
	w := &workload{t: t, c: others}
	ctx := t.Context()
	u := w.register(ctx, "ann")
	var paths []string
	for range 12 { // some of which the first node owns
		made, err := others.ok(ctx, "POST", "/_matrix/client/v3/createRoom", u.token, `{}`)
		must(t, err)
		paths = append(paths, "/_matrix/client/v3/rooms/"+url.PathEscape(made.Get("room_id").Str)+"/state/org.test.late/")
	}
	each := func(fn func(i int, path string)) {
		var wg sync.WaitGroup
		for i, path := range paths {
			wg.Go(func() { fn(i, path) })
		}
		wg.Wait()
	}
	put := func(what string) func(i int, path string) {
		return func(i int, path string) {
			if _, err := others.ok(ctx, "PUT", path, u.token, fmt.Sprintf(`{"what":"%s %d"}`, what, i)); err != nil {
				t.Error(err)
			}
		}
	}
	each(put("before"))
	frozen.signal(syscall.SIGSTOP)
	each(func(i int, path string) { // nobody hears the answer
		given, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if a, err := others.once(given, frozen, "PUT", path, u.token, fmt.Appendf(nil, `{"what":"asked of the frozen one %d"}`, i)); err == nil {
			t.Errorf("a frozen process answered %d", a.status)
		}
	})
	each(put("by calls to the frozen one")) // those that it owns
	each(put("last"))
	until(t, time.Minute, "the others to count it out", func() bool { return c.live() == 2 })
	frozen.signal(syscall.SIGCONT)
	frozen.says(ownedNothing)
	until(t, time.Minute, "it to be back", func() bool { return c.live() == 3 })
	until(t, time.Minute, "it to take writes again", func() bool {
		a, err := others.once(ctx, frozen, "PUT", paths[0]+"again", u.token, []byte(`{}`))
		return err == nil && a.status == 200
	})
	each(func(i int, path string) {
		state, err := others.ok(ctx, "GET", path, u.token, "")
		if want := fmt.Sprint("last ", i); err != nil || state.Get("what").Str != want {
			t.Errorf("the state is %s, %v; want %q", state.Raw, err, want)
		}
	})
}
