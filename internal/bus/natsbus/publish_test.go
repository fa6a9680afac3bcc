package natsbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/sirupsen/logrus"

	"weft/internal/bus"
)

// What was packed when NATS took more goes item by item, and who waits for what does not go is told.
func TestFrameThatIsTooLarge(t *testing.T) {
	const maxPayload = 8 << 10
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, MaxPayload: maxPayload})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server does not start")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	log := logrus.New()
	log.SetOutput(io.Discard)
	open := func(node string) *Bus {
		b, err := Start(ctx, Config{Local: bus.NewLocal(), Cluster: "c", Node: node, Log: log,
			URL: fmt.Sprintf("nats://127.0.0.1:%d", s.Addr().(*net.TCPAddr).Port)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
		return b
	}
	a, b := open("a"), open("b")
	sizes := []int{100, maxPayload, maxPayload / 2, maxPayload / 2}
	wait := func(c *call) ([]byte, error) {
		t.Helper()
		select {
		case got := <-c.result:
			return got.value()
		case <-ctx.Done():
			t.Fatal("nobody was told")
			return nil, nil
		}
	}
	check := func(what string, calls []*call) {
		t.Helper()
		for i, c := range calls {
			data, err := wait(c)
			if large := sizes[i] == maxPayload; large != errors.Is(err, ErrTooLarge) || !large && (err != nil || len(data) != sizes[i]) {
				t.Errorf("%s of %d bytes: %d bytes, %v", what, sizes[i], len(data), err)
			}
		}
	}
	made := func() (calls []*call) {
		for range sizes {
			calls = append(calls, a.calls.add("b"))
		}
		return calls
	}

	answers := made()
	f := &frame{to: a.calls.prefix + "0"}
	for i, c := range answers {
		it := item{kind: itemAnswer, number: c.number, data: make([]byte, sizes[i])}
		f.data = it.appendTo(f.data)
	}
	b.publish(f)
	check("answer", answers)

	b.Handle("s", 10, func(_ context.Context, data []byte) ([]byte, error) { return data, nil })
	requests := made()
	f = &frame{to: a.nodeSubject("b"), calls: requests}
	for i, c := range requests {
		stop := item{kind: itemCancel, number: 1 << 40, name: "s"}
		it := item{kind: itemRequest, number: c.number, name: "s", left: time.Minute, data: make([]byte, sizes[i])}
		f.data = it.appendTo(stop.appendTo(f.data))
	}
	a.publish(f)
	check("request", requests)

	f = &frame{to: b.prefix + "bus"}
	for _, size := range sizes {
		it := item{kind: itemMessage, name: "t", data: make([]byte, size)}
		f.data = it.appendTo(f.data)
		f.messages++
	}
	if dropped := a.publish(f); dropped != 1 {
		t.Errorf("%d messages are dropped, want one", dropped)
	}
}
