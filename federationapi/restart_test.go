package federationapi

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"weft/internal/fedclient"
	"weft/internal/sqldb"
	"weft/matrix/id"
)

// disk is what the outbound side has on disk at a moment.
type disk struct {
	cursor int64 // of the shard that is least far
	behind []behindRow
	edus   []struct {
		seq    int64
		server string
		edu    []byte
	}
}

func (w *world) snapshot() disk {
	w.t.Helper()
	var d disk
	w.ok(w.db.View(context.Background(), func(tx *sqldb.Tx) error {
		d = disk{}
		ctx := context.Background()
		if err := tx.QueryRow(ctx, cursorSQL).Scan(&d.cursor); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, selectBehindSQL)
		if err != nil {
			return err
		}
		for rows.Next() {
			var r behindRow
			if err := rows.Scan(&r.server, &r.pos, &r.failures, &r.retryTS, &r.failingTS); err != nil {
				return err
			}
			d.behind = append(d.behind, r)
		}
		if err := rows.Close(); err != nil {
			return err
		}
		if rows, err = tx.Query(ctx, `SELECT seq, server, edu FROM fed_edus ORDER BY seq`); err != nil {
			return err
		}
		for rows.Next() {
			e := struct {
				seq    int64
				server string
				edu    []byte
			}{}
			if err := rows.Scan(&e.seq, &e.server, &e.edu); err != nil {
				return err
			}
			d.edus = append(d.edus, e)
		}
		return rows.Close()
	}))
	return d
}

func (w *world) restore(d disk) {
	w.t.Helper()
	w.ok(w.db.Update(context.Background(), func(tx *sqldb.Tx) error {
		ctx := context.Background()
		for _, q := range []string{`DELETE FROM fed_cursor`, `DELETE FROM fed_destinations`, `DELETE FROM fed_edus`} {
			if _, err := tx.Exec(ctx, q); err != nil {
				return err
			}
		}
		if d.cursor > 0 {
			for n := range Shards {
				if _, err := tx.Exec(ctx, `INSERT INTO fed_cursor (shard, owner, pos) VALUES ($1, 0, $2)`, n, d.cursor); err != nil {
					return err
				}
			}
		}
		for _, r := range d.behind {
			if _, err := tx.Exec(ctx, upsertBehindSQL, string(r.server), r.pos, r.failures, r.retryTS, r.failingTS); err != nil {
				return err
			}
		}
		for _, e := range d.edus {
			if _, err := tx.Exec(ctx, `INSERT INTO fed_edus (seq, server, edu) VALUES ($1, $2, $3)`, e.seq, e.server, e.edu); err != nil {
				return err
			}
		}
		return nil
	}))
}

// kill ends a server as SIGKILL would: what it does from the moment of the call
// on does not reach the disk.
func (w *world) kill(stop func()) {
	w.t.Helper()
	d := w.snapshot()
	stop()
	w.restore(d)
}

func blockAll(ctx context.Context, _ id.Server, _ fedclient.Transaction) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestRestart(t *testing.T) {
	endings := map[string]func(w *world, stop func()){
		"stopped": func(_ *world, stop func()) { stop() },
		"killed":  func(w *world, stop func()) { w.kill(stop) },
	}
	for name, end := range endings {
		t.Run(name+" with events in the queue", func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				room := w.newRoom(alice, oscar, tina)
				net := newNetwork()
				net.answers(func(ctx context.Context, server id.Server, tx fedclient.Transaction) error {
					if server == one {
						return blockAll(ctx, server, tx)
					}
					return nil
				})
				stop := w.start(w.server(net, quickLimits()))
				sent := room.talk(70)
				net.waitGot(t, two, sent...)
				end(w, stop)
				net.fails()
				w.start(w.server(net, quickLimits()))
				net.waitGot(t, one, sent...)
				checkOrder(t, net.got(one), sent...)
			})
		})
		t.Run(name+" with a destination behind", func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				room := w.newRoom(alice, oscar, tina)
				net := newNetwork()
				net.fails(one)
				stop := w.start(w.server(net, quickLimits()))
				sent := room.talk(20)
				net.waitGot(t, two, sent...)
				eventually(t, "the cursor has passed it", func() bool { return w.count(cursorSQL) > 20 })
				end(w, stop)
				more := room.talk(20)
				net.fails()
				w.start(w.server(net, quickLimits()))
				all := slices.Concat(sent, more)
				net.waitGot(t, one, all...)
				checkOrder(t, net.got(one), all...)
				net.waitGot(t, two, more...)
			})
		})
		t.Run(name+" with durable EDUs", func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				net := newNetwork()
				net.answers(blockAll)
				s := w.server(net, quickLimits())
				stop := w.start(s)
				for n := range 5 {
					w.edu(s, "m.direct_to_device", n, true, "", one, two)
				}
				end(w, stop)
				net.fails()
				w.start(w.server(net, quickLimits()))
				for _, server := range []id.Server{one, two} {
					net.wait(t, "they arrived", func() bool { return len(net.edus(server)) >= 5 })
					for n, e := range net.edus(server) {
						if e != fmt.Sprintf("m.direct_to_device %d", n) {
							t.Errorf("%s: EDU %d is %s", server, n, e)
						}
					}
				}
			})
		})
	}
}

func TestKilledBeforeTheCursorIsSaved(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar)
		net := newNetwork()
		limits := quickLimits()
		limits.Save = time.Hour
		stop := w.start(w.server(net, limits))
		sent := room.talk(30)
		net.waitGot(t, one, sent...)
		w.kill(stop)
		if n := w.count(cursorSQL); n != 0 {
			t.Fatalf("the cursor is at %d", n)
		}
		before := len(net.calls)
		next := room.say(alice, "after")
		w.start(w.server(net, quickLimits()))
		net.waitGot(t, one, next.ID)
		checkOrder(t, net.got(one), append(sent, next.ID)...)
		var again []id.Event
		for _, c := range net.calls[before:] {
			again = append(again, c.pdus()...)
		}
		if !containsAll(again, sent) {
			t.Error("events between the saved cursor and the end were not sent again, so they could have been lost as well")
		}
	})
}

func TestPauseOutlivesARestart(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		room := w.newRoom(alice, oscar, tina)
		net := newNetwork()
		net.fails(one)
		limits := quickLimits()
		limits.MinBackoff, limits.MaxBackoff = time.Hour, time.Hour
		stop := w.start(w.server(net, limits))
		sent := room.talk(3)
		net.waitGot(t, two, sent...)
		net.wait(t, "it failed", func() bool { return len(net.to(one, false)) == 1 })
		eventually(t, "its pause is stored", func() bool { return w.count(`SELECT COUNT(*) FROM fed_destinations`) == 1 })
		w.kill(stop)
		net.fails()
		s := w.server(net, limits)
		w.start(s)
		net.waitGot(t, two, room.say(alice, "next").ID)
		if n := len(net.to(one, true)); n != 0 {
			t.Errorf("it was sent %d transactions during its pause", n)
		}
		w.ok(s.DestinationAlive(w.ctx(), one))
		net.waitGot(t, one, sent...)
	})
}
