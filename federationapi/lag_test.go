package federationapi

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"weft/internal/fedclient"
	"weft/internal/stream"
	"weft/matrix/id"
)

// shown gives a reader of a server's metrics, by name and value of the label.
func shown(t *testing.T, s *Server) func(name string) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	if err := s.out.register(reg); err != nil {
		t.Fatal(err)
	}
	return func(name string) float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				full := f.GetName()
				for _, l := range m.GetLabel() {
					full += " " + l.GetValue()
				}
				if full == "weft_federation_"+name {
					return m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
		t.Fatalf("no metric %s", name)
		return 0
	}
}

func TestFailingServersAreShown(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room, net := w.newRoom(alice, oscar, tina), newNetwork()
		s := w.server(net, quickLimits())
		value := shown(t, s)
		for _, name := range []string{"transactions_total ok", "transactions_total failed", "transactions_total refused", "failing_destinations"} {
			if got := value(name); got != 0 {
				t.Errorf("%s at the start: %v", name, got)
			}
		}
		net.fails(one)
		w.start(s)
		want := room.talk(3)
		net.waitGot(t, two, want...)
		eventually(t, "one server of two fails", func() bool {
			return value("failing_destinations") == 1 && value("behind_destinations") == 1 && value("transactions_total failed") > 1
		})
		if value("transactions_total ok") < 1 {
			t.Error("the other is not counted")
		}
		net.fails()
		net.waitGot(t, one, want...)
		eventually(t, "none fails any more", func() bool { return value("failing_destinations") == 0 && value("behind_destinations") == 0 })
		if got := value("transactions_total refused"); got != 0 {
			t.Errorf("%v were refused", got)
		}
		net.answers(func(context.Context, id.Server, fedclient.Transaction) error { return remoteError(413, "M_TOO_LARGE") })
		room.talk(1)
		eventually(t, "both refuse", func() bool { return value("transactions_total refused") == 2 })
	})
}

func TestLagOfASlowServerIsShown(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room, net := w.newRoom(alice, oscar, tina), newNetwork()
		s := w.server(net, quickLimits())
		value := shown(t, s)
		w.start(s)
		net.waitGot(t, two, room.talk(1)...)
		eventually(t, "nothing waits", func() bool { return value("lag_positions") == 0 && value("queued_events") == 0 })
		asked, release := make(chan struct{}, 10), make(chan struct{})
		net.answers(func(_ context.Context, server id.Server, _ fedclient.Transaction) error {
			if server == one {
				asked <- struct{}{}
				<-release
			}
			return nil
		})
		want := room.talk(5)
		<-asked
		eventually(t, "five positions wait for one server", func() bool { return value("lag_positions") == 5 && value("queued_events") == 5 })
		if value("failing_destinations") != 0 {
			t.Error("it does not fail yet")
		}
		close(release)
		net.waitGot(t, one, want...)
		eventually(t, "nothing waits again", func() bool { return value("lag_positions") == 0 && value("queued_events") == 0 })
	})
}

func TestReadLag(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room, net := w.newRoom(alice, oscar, tina), newNetwork()
		s := w.server(net, quickLimits())
		read := func(most int) Lag {
			t.Helper()
			l, err := ReadLag(w.ctx(), w.db, most)
			w.ok(err)
			return l
		}
		room.talk(7)
		end, err := stream.Position(w.ctx(), w.db, stream.Events)
		w.ok(err)
		if got := read(100); got != (Lag{Positions: end}) {
			t.Errorf("nothing was sent yet: %+v, want %d positions", got, end)
		}
		net.fails(one)
		stop := w.start(s)
		w.edu(s, "m.test", 1, true, "", one)
		w.edu(s, "m.test", 2, true, "", one)
		w.edu(s, "m.test", 3, true, "", one)
		eventually(t, "one fails, and the cursors go past it", func() bool { return read(100) == Lag{Behind: 1, Failing: 1, EDUs: 3} })
		stop()
		w.behind(w.server(net, quickLimits()), behindRow{server: three})
		if got := read(100); got != (Lag{Behind: 2, Failing: 1, EDUs: 3}) {
			t.Errorf("another one is behind: %+v", got)
		}
		if got := read(2); got.EDUs != 2 || got.Behind != 2 {
			t.Errorf("no more than two are counted: %+v", got)
		}
		_, err = w.db.Exec(w.ctx(), `DELETE FROM fed_cursor WHERE shard = 3`)
		w.ok(err)
		if got := read(100); got.Positions != end {
			t.Errorf("nobody has taken a shard yet: %+v", got)
		}
	})
}
