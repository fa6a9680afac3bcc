package natsbus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"weft/internal/bus/natsbus"
)

// external starts a NATS as an operator would run it, with a port for clients and credentials.
func external(t testing.TB, port int) *server.Server { return externalThatTakes(t, port, 0) }

// externalThatTakes starts one with a maximum of a message.
func externalThatTakes(t testing.TB, port int, maxPayload int32) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, Username: "weft", Password: "secret",
		NoLog: true, NoSigs: true, MaxPayload: maxPayload})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		t.Fatal("the external server does not start")
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

func externalConfig(node string, port int) natsbus.Config {
	cfg := config(node, nil)
	cfg.Listen = ""
	cfg.URL = fmt.Sprintf("nats://weft:secret@127.0.0.1:%d", port)
	return cfg
}

// eachWay runs a test with two connected nodes: over a route, over an external server, and with one node that calls
// itself.
func eachWay(t *testing.T, test func(t *testing.T, from, to *natsbus.Bus)) {
	t.Run("route", func(t *testing.T) {
		noLeaks(t)
		id := identity(t)
		a, b := start(t, config("a", id)), start(t, config("b", id))
		mesh(t, a, b)
		flowing(t, a, b)
		flowing(t, b, a)
		test(t, a, b)
	})
	t.Run("external", func(t *testing.T) {
		noLeaks(t)
		port := external(t, server.RANDOM_PORT).Addr().(*net.TCPAddr).Port
		test(t, start(t, externalConfig("a", port)), start(t, externalConfig("b", port)))
	})
	t.Run("itself", func(t *testing.T) {
		noLeaks(t)
		b := start(t, config("b", identity(t)))
		test(t, b, b)
	})
}

func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestExternalBus(t *testing.T) {
	noLeaks(t)
	s := external(t, server.RANDOM_PORT)
	port := s.Addr().(*net.TCPAddr).Port
	a, b := start(t, externalConfig("a", port)), start(t, externalConfig("b", port))
	stranger := externalConfig("a", port)
	stranger.Cluster = "another"
	c := start(t, stranger)
	gotA, gotB, gotC := record(t, a, "t"), record(t, b, "t"), record(t, c, "t")
	for i := range 100 {
		a.Publish("t", fmt.Append(nil, i))
	}
	eventually(t, "all messages", func() bool { return len(gotB.all()) >= 100 })
	flowing(t, a, b)
	if len(gotA.all()) != 100 || len(gotB.all()) != 100 || len(gotC.all()) != 0 {
		t.Errorf("got %d, %d and %d messages", len(gotA.all()), len(gotB.all()), len(gotC.all()))
	}
	if err := a.SetPeers([]string{"127.0.0.1:1"}); err != nil || a.Addr() != "" {
		t.Errorf("peers with an external server: %v, %q", err, a.Addr())
	}

	// It goes away and comes back.
	s.Shutdown()
	s.WaitForShutdown()
	eventually(t, "disconnected", func() bool { return !a.Stats().Connected && !b.Stats().Connected })
	a.Publish("t", []byte("kept"))
	external(t, port)
	flowing(t, a, b)
	eventually(t, "reconnects are counted", func() bool { return a.Stats().Reconnects == 1 && b.Stats().Reconnects == 1 })
}

// What goes together is no more than an external NATS takes.
func TestExternalTakesLittle(t *testing.T) {
	noLeaks(t)
	const maxPayload, size, many = 32 << 10, 10 << 10, 200
	port := externalThatTakes(t, server.RANDOM_PORT, maxPayload).Addr().(*net.TCPAddr).Port
	a, b := start(t, externalConfig("a", port)), start(t, externalConfig("b", port))
	flowing(t, a, b)
	free := make(chan struct{})
	b.Handle("s", many, func(_ context.Context, data []byte) ([]byte, error) {
		<-free // so that the answers go together
		return data, nil
	})
	results := make(chan error, many)
	for range many {
		go func() {
			data, err := a.Request(patient(t), "b", "s", make([]byte, size))
			if err == nil && len(data) != size {
				err = fmt.Errorf("%d bytes", len(data))
			}
			results <- err
		}()
	}
	got := record(t, b, "t")
	for range many {
		a.Publish("t", make([]byte, size))
	}
	eventually(t, "all messages", func() bool { return len(got.all()) == many })
	close(free)
	for range many {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	largest := make([]byte, a.MaxData())
	if data, err := a.Request(patient(t), "b", "s", largest); err != nil || len(data) != len(largest) {
		t.Errorf("%d of %d bytes, %v", len(data), len(largest), err)
	}
	if n := a.Stats().Dropped; n != 0 {
		t.Errorf("%d messages are lost", n)
	}
}

func TestExternalComesLater(t *testing.T) {
	noLeaks(t)
	s := external(t, server.RANDOM_PORT)
	port := s.Addr().(*net.TCPAddr).Port
	s.Shutdown()
	s.WaitForShutdown()
	a, b := start(t, externalConfig("a", port)), start(t, externalConfig("b", port))
	external(t, port)
	flowing(t, a, b)
}

func TestExternalRefuses(t *testing.T) {
	noLeaks(t)
	cfg := externalConfig("a", external(t, server.RANDOM_PORT).Addr().(*net.TCPAddr).Port)
	cfg.URL = strings.Replace(cfg.URL, "secret", "guess", 1)
	if b, err := natsbus.Start(t.Context(), cfg); err == nil {
		t.Error("wrong credentials were taken")
		closeBus(t, b)
	} else if strings.Contains(err.Error(), "guess") {
		t.Errorf("the error shows the password: %v", err)
	}
}

func TestRequest(t *testing.T) {
	eachWay(t, func(t *testing.T, from, to *natsbus.Bus) {
		ctx := patient(t)
		to.Handle("a.b c", 2, func(_ context.Context, data []byte) ([]byte, error) {
			switch string(data) {
			case "plain error":
				return nil, errors.New("no")
			case "own error":
				return nil, fmt.Errorf("wrapped: %w", &natsbus.RemoteError{Data: []byte{0, 1, 2}})
			case "panic":
				panic("no")
			case "large":
				return make([]byte, natsbus.MaxData+1), nil
			case "largest":
				return make([]byte, natsbus.MaxData), nil
			}
			return bytes.ToUpper(data), nil
		})
		for in, want := range map[string]string{"hello": "HELLO", "": "", strings.Repeat("x", natsbus.MaxData): strings.Repeat("X", natsbus.MaxData)} {
			if got, err := from.Request(ctx, "b", "a.b c", []byte(in)); err != nil || string(got) != want {
				t.Errorf("%d bytes: got %d, %v", len(in), len(got), err)
			}
		}
		if got, err := from.Request(ctx, "b", "a.b c", []byte("largest")); err != nil || len(got) != natsbus.MaxData {
			t.Errorf("largest answer: %d bytes, %v", len(got), err)
		}
		for in, want := range map[string]string{"plain error": "no", "own error": "\x00\x01\x02", "panic": "panic in a handler"} {
			var remote *natsbus.RemoteError
			if _, err := from.Request(ctx, "b", "a.b c", []byte(in)); !errors.As(err, &remote) || string(remote.Data) != want {
				t.Errorf("%s: %v", in, err)
			}
		}
		if _, err := from.Request(ctx, "b", "a.b c", []byte("large")); !errors.Is(err, natsbus.ErrTooLarge) {
			t.Errorf("large answer: %v", err)
		}
		if _, err := from.Request(ctx, "b", "a.b c", make([]byte, natsbus.MaxData+1)); !errors.Is(err, natsbus.ErrTooLarge) {
			t.Errorf("large request: %v", err)
		}
	})
}

func TestNoNode(t *testing.T) {
	eachWay(t, func(t *testing.T, from, to *natsbus.Bus) {
		ctx := patient(t)
		stop := to.Handle("s", 1, func(context.Context, []byte) ([]byte, error) { return nil, nil })
		if _, err := from.Request(ctx, "b", "s", nil); err != nil {
			t.Fatal(err)
		}
		stop()
		for _, c := range [][2]string{{"b", "s"}, {"b", "never"}, {"nobody", "s"}, {"b.s", ""}, {"*", "*"}} {
			if _, err := from.Request(ctx, c[0], c[1], nil); !errors.Is(err, natsbus.ErrNoNode) {
				t.Errorf("%q: %v", c, err)
			}
		}
		if ctx.Err() != nil {
			t.Error("it took its time")
		}
	})
}

func TestDeadline(t *testing.T) {
	eachWay(t, func(t *testing.T, from, to *natsbus.Bus) {
		left, ended := make(chan time.Duration, 1), make(chan error, 1)
		to.Handle("s", 1, func(ctx context.Context, _ []byte) ([]byte, error) {
			deadline, _ := ctx.Deadline()
			left <- time.Until(deadline)
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		if _, err := from.Request(ctx, "b", "s", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("request: %v", err)
		}
		if d := <-left; d > 301*time.Millisecond {
			t.Errorf("the handler had %v", d)
		}
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("handler: %v", err)
		}
		if _, err := from.Request(ctx, "b", "s", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("request with a context that ended: %v", err)
		}
	})
}

func TestCancel(t *testing.T) {
	eachWay(t, func(t *testing.T, from, to *natsbus.Bus) {
		began, ended := make(chan bool, 1), make(chan error, 1)
		to.Handle("s", 1, func(ctx context.Context, _ []byte) ([]byte, error) {
			began <- true
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithCancel(patient(t))
		go func() {
			<-began
			cancel()
		}()
		if _, err := from.Request(ctx, "b", "s", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("request: %v", err)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("handler: %v", err)
		}
	})
}

func TestBusy(t *testing.T) {
	eachWay(t, func(t *testing.T, from, to *natsbus.Bus) {
		const workers, more = 2, 1000 // more refusals than the outbox has room for
		const room = workers * (1 + natsbus.QueuePerWorker)
		free := make(chan struct{})
		var running, most atomic.Int32
		to.Handle("s", workers, func(context.Context, []byte) ([]byte, error) {
			n := running.Add(1)
			defer running.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			<-free
			return nil, nil
		})
		results := make(chan error, room+more)
		for range room + more {
			go func() {
				_, err := from.Request(patient(t), "b", "s", nil)
				results <- err
			}()
		}
		for range more { // these end while the others wait
			if err := <-results; !errors.Is(err, natsbus.ErrBusy) {
				t.Errorf("one too many: %v", err)
			}
		}
		close(free)
		for range room {
			if err := <-results; err != nil {
				t.Errorf("one that has room: %v", err)
			}
		}
		if most.Load() != workers {
			t.Errorf("%d ran at once, want %d", most.Load(), workers)
		}
	})
}

func TestCloseDrains(t *testing.T) {
	eachWay(t, func(t *testing.T, from, to *natsbus.Bus) {
		if from == to {
			t.Skip("the caller would be closed too")
		}
		began, free := make(chan bool), make(chan struct{})
		to.Handle("s", 1, func(context.Context, []byte) ([]byte, error) {
			began <- true
			<-free
			return []byte("done"), nil
		})
		to.Handle("quick", 1, func(context.Context, []byte) ([]byte, error) { return nil, nil })
		result := make(chan string, 1)
		go func() {
			data, err := from.Request(patient(t), "b", "s", nil)
			result <- fmt.Sprint(string(data), err)
		}()
		<-began
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			closeBus(t, to)
		}()
		// While the call runs, further ones find nobody.
		eventually(t, "no further calls", func() bool {
			_, err := from.Request(patient(t), "b", "quick", nil)
			return errors.Is(err, natsbus.ErrNoNode)
		})
		close(free)
		<-closed
		if got := <-result; got != "done<nil>" {
			t.Errorf("the running call ended with %s", got)
		}
	})
}

func TestCloseEndsWaiting(t *testing.T) {
	noLeaks(t)
	b := start(t, config("b", identity(t)))
	began := make(chan bool, 1)
	b.Handle("s", 1, func(ctx context.Context, _ []byte) ([]byte, error) {
		began <- true
		<-ctx.Done()
		return nil, ctx.Err()
	})
	result := make(chan error, 1)
	go func() {
		_, err := b.Request(patient(t), "b", "s", nil)
		result <- err
	}()
	<-began
	closing := time.Now()
	closeBus(t, b)
	if took := time.Since(closing); took > 17*time.Second {
		t.Errorf("close took %v", took)
	}
	if err := <-result; !errors.Is(err, natsbus.ErrClosed) {
		t.Errorf("the request ended with %v", err)
	}
}

// TestGather has many calls made while the first one is not answered: all go in a few messages, and each gets its own answer.
func TestGather(t *testing.T) {
	eachWay(t, func(t *testing.T, from, to *natsbus.Bus) {
		const many = 200
		began, free := make(chan bool, 1), make(chan struct{})
		to.Handle("slow", 1, func(context.Context, []byte) ([]byte, error) {
			began <- true
			<-free
			return nil, nil
		})
		to.Handle("s", many, func(_ context.Context, data []byte) ([]byte, error) {
			if len(data) == 3 {
				return nil, &natsbus.RemoteError{Data: data}
			}
			return append([]byte("re: "), data...), nil
		})
		slow := make(chan error, 1)
		go func() {
			_, err := from.Gather(patient(t), "b", "slow", nil)
			slow <- err
		}()
		<-began
		results := make(chan string, many)
		for i := range many {
			go func() {
				data, err := from.Gather(patient(t), "b", "s", fmt.Append(nil, i))
				var remote *natsbus.RemoteError
				switch {
				case errors.As(err, &remote) && i >= 100 && string(remote.Data) == fmt.Sprint(i):
					results <- ""
				case i < 100 && string(data) == fmt.Sprint("re: ", i):
					results <- ""
				default:
					results <- fmt.Sprintf("call %d: %q, %v", i, data, err)
				}
			}()
		}
		// One whose caller gives up while it waits is not made.
		gone, cancel := context.WithCancel(patient(t))
		cancel()
		if _, err := from.Gather(gone, "b", "s", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("a call that was given up: %v", err)
		}
		for range many { // although the slow one is not answered
			if wrong := <-results; wrong != "" {
				t.Error(wrong)
			}
		}
		close(free)
		if err := <-slow; err != nil {
			t.Error(err)
		}
		if _, err := from.Gather(patient(t), "b", "never", nil); !errors.Is(err, natsbus.ErrNoNode) {
			t.Errorf("no handler: %v", err)
		}
		for range 3 {
			if _, err := from.Gather(patient(t), "nobody", "s", nil); !errors.Is(err, natsbus.ErrNoNode) {
				t.Errorf("no node: %v", err)
			}
		}
	})
}

// What is on a connection that breaks is lost, requests and answers, and found missing.
func TestCheck(t *testing.T) {
	noLeaks(t)
	id := identity(t)
	a, b := start(t, config("a", id)), start(t, config("b", id))
	p := newProxy(t, b.Addr())
	setPeers(t, a, p.addr)
	flowing(t, a, b)
	flowing(t, b, a)
	const size = 2000
	began, free := make(chan bool, 10), make(chan struct{}, 10)
	b.Handle("s", 10, func(_ context.Context, data []byte) ([]byte, error) {
		began <- true
		<-free
		return data, nil
	})
	ask := func() <-chan error {
		result := make(chan error, 1)
		go func() {
			_, err := a.Request(patient(t), "b", "s", make([]byte, size))
			result <- err
		}()
		return result
	}
	check := func(before time.Time, want int) (missing []uint64) {
		t.Helper()
		eventually(t, "b is asked", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var err error
			missing, err = a.Check(ctx, "b", before)
			return err == nil
		})
		if len(missing) != want {
			t.Errorf("%d calls are missing, want %d", len(missing), want)
		}
		return missing
	}

	unanswered := ask()
	<-began
	check(time.Now(), 0)
	p.drop.Store(true)
	unsent := ask()
	eventually(t, "the request is on its way", func() bool { return p.dropped.Load() > size })
	free <- struct{}{}
	eventually(t, "the answer is on its way", func() bool { return p.dropped.Load() > 2*size })
	p.cut()
	eventually(t, "both see the cut", func() bool { return a.Stats().Routes == 0 && b.Stats().Routes == 0 })
	p.drop.Store(false)
	p.up()
	flowing(t, a, b)
	flowing(t, b, a)
	then := time.Now()
	other := ask()
	<-began
	check(then.Add(-time.Hour), 0)
	missing := check(then, 2)
	if again := check(time.Now(), 2); !slices.Equal(missing, again) {
		t.Errorf("at first %d are missing, then %d", missing, again)
	}
	lost := errors.New("lost")
	a.End(missing, lost)
	if x, y := <-unanswered, <-unsent; !errors.Is(x, lost) || !errors.Is(y, lost) {
		t.Errorf("they ended with %v, %v", x, y)
	}
	check(time.Now(), 0)
	free <- struct{}{}
	if err := <-other; err != nil {
		t.Errorf("the one that is not missing: %v", err)
	}
	if _, err := a.Check(patient(t), "nobody", then); !errors.Is(err, natsbus.ErrNoNode) {
		t.Errorf("no node: %v", err)
	}
	if missing, err := a.Check(patient(t), "a", then); err != nil || missing != nil {
		t.Errorf("itself: %v, %v", missing, err)
	}
}

// Who asks after its calls tells that it wants them, and from when that is: from after what the other node said last.
func TestWanted(t *testing.T) {
	noLeaks(t)
	id := identity(t)
	a, b := start(t, config("a", id)), start(t, config("b", id))
	mesh(t, a, b)
	flowing(t, a, b)
	flowing(t, b, a)
	began, free := make(chan context.Context, 2), make(chan struct{})
	b.Handle("s", 2, func(ctx context.Context, data []byte) ([]byte, error) {
		began <- ctx
		<-free
		return data, nil
	})
	results := make(chan error)
	ask := func() context.Context {
		go func() {
			_, err := a.Request(patient(t), "b", "s", nil)
			results <- err
		}()
		return <-began
	}
	known := func(call context.Context) bool {
		_, known := b.Wanted(call)
		return known
	}
	check := func() {
		t.Helper()
		at := time.Now()
		if missing, err := a.Check(patient(t), "b", time.Now()); err != nil || len(missing) != 0 {
			t.Fatalf("missing: %v, %v", missing, err)
		}
		if sign := a.Sign("b"); sign.Before(at) || sign.After(time.Now()) {
			t.Errorf("the sign is of %s before", time.Since(sign))
		}
	}
	if !a.Sign("b").IsZero() {
		t.Error("there is a sign before somebody asked for it")
	}
	first := ask()
	if known(first) {
		t.Error("a call is wanted before anything was said of it")
	}
	begun := time.Now()
	check()
	if known(first) {
		t.Error("a call is wanted by a node that knows no sign")
	}
	told := time.Now()
	second := ask()
	check() // tells what b said at the first
	for what, call := range map[string]context.Context{"first": first, "second": second} {
		if ago, known := b.Wanted(call); !known || ago < time.Since(told) || ago > time.Since(begun) {
			t.Errorf("the %s call: %v, %s ago; want %s to %s", what, known, ago, time.Since(told), time.Since(begun))
		}
	}
	check()
	if ago, known := b.Wanted(first); !known || ago > time.Since(told) {
		t.Errorf("after the next: %v, %s ago; want %s at most", known, ago, time.Since(told))
	}
	if known(t.Context()) {
		t.Error("what is no call is wanted")
	}
	close(free)
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	benchmarkRequest(b, (*natsbus.Bus).Request, 1)
}

func BenchmarkGather64(b *testing.B) {
	benchmarkRequest(b, (*natsbus.Bus).Gather, 64)
}

func benchmarkRequest(b *testing.B, request func(*natsbus.Bus, context.Context, string, string, []byte) ([]byte, error), parallel int) {
	id := identity(b)
	x, y := start(b, config("x", id)), start(b, config("y", id))
	mesh(b, x, y)
	flowing(b, x, y)
	flowing(b, y, x)
	y.Handle("s", 64, func(_ context.Context, data []byte) ([]byte, error) { return data, nil })
	data := make([]byte, 100)
	ctx := context.Background()
	b.ReportAllocs()
	b.SetParallelism(parallel)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := request(x, ctx, "y", "s", data); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
