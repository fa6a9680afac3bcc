package keyserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"weft/internal/bus"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/stream"
	"weft/keyserver/api"
	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// nodes runs a test on both databases with two key servers "here" over one database. On PostgreSQL each has its own
// connections, as two processes do; a SQLite file belongs to one process, so there they share what it opened.
func nodes(t *testing.T, fn func(t *testing.T, a, b *Server, w *world), opts ...func(*Config)) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		w := &world{shared: map[id.User]bool{}}
		w.remote = newServer(t, sqldbtest.Open(t, newURL()), "there", &world{shared: map[id.User]bool{}})
		url := newURL()
		first := sqldbtest.Open(t, url)
		second := first
		if first.Dialect() == sqldb.Postgres {
			second = sqldbtest.Open(t, url)
		}
		fn(t, newServer(t, first, "here", w, opts...), newServer(t, second, "here", w, opts...), w)
	})
}

// whileHeld runs calls while a transaction is open in which another node does something: on PostgreSQL each begins when
// the one before it waits for a lock (or is over), and the transaction is committed when all do. SQLite has one
// writer, so there the calls begin after the commit. It gives the errors of the calls.
func whileHeld(t *testing.T, db *sqldb.DB, other func(tx *sqldb.Tx) error, calls ...func() error) []error {
	t.Helper()
	errs := make([]error, len(calls))
	var wg sync.WaitGroup
	var over sync.Map
	start := func(i int) {
		wg.Go(func() {
			defer over.Store(i, true)
			errs[i] = calls[i]()
		})
	}
	postgres := db.Dialect() == sqldb.Postgres
	err := db.Update(context.Background(), func(tx *sqldb.Tx) error {
		if err := other(tx); err != nil || !postgres {
			return err
		}
		for i := range calls {
			start(i)
			if err := untilTheyWait(db, &over, i+1); err != nil {
				return err
			}
		}
		return nil
	})
	if !postgres {
		for i := range calls {
			start(i)
		}
	}
	wg.Wait()
	must(t, err)
	return errs
}

// untilTheyWait returns when so many calls wait for a lock of PostgreSQL or are over.
func untilTheyWait(db *sqldb.DB, over *sync.Map, calls int) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-tick.C {
		var n int
		err := db.QueryRow(context.Background(), `SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'`).Scan(&n)
		if err != nil {
			return err
		}
		over.Range(func(any, any) bool { n++; return true })
		if n >= calls {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d calls wait or are over", n, calls)
		}
	}
}

// holdLists is what a node does that is about to change a device list.
func holdLists(tx *sqldb.Tx) error {
	_, err := stream.Advance(context.Background(), tx, stream.DeviceLists, 1)
	return err
}

func exec(query string, args ...any) func(tx *sqldb.Tx) error {
	return func(tx *sqldb.Tx) error {
		_, err := tx.Exec(context.Background(), query, args...)
		return err
	}
}

func allFine(t *testing.T, errs []error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

// wantChain checks that each update names the one before it, and none does twice.
func wantChain(t *testing.T, w *world, want int) {
	t.Helper()
	type link struct{ pos, prev int64 }
	var links []link
	for _, e := range w.sent {
		if e.Type == eduDeviceList {
			links = append(links, link{gjson.GetBytes(e.Content, "stream_id").Int(), gjson.GetBytes(e.Content, "prev_id.0").Int()})
		}
	}
	slices.SortFunc(links, func(a, b link) int { return cmp.Compare(a.pos, b.pos) })
	var last int64
	for _, l := range links {
		if l.prev != last {
			t.Errorf("update %d follows %d, want %d", l.pos, l.prev, last)
		}
		last = l.pos
	}
	if len(links) != want {
		t.Errorf("%d updates, want %d", len(links), want)
	}
}

func TestNodes_UpdatesOfAUserFormAChain(t *testing.T) {
	nodes(t, func(t *testing.T, a, b *Server, w *world) {
		ctx := context.Background()
		w.shared[alice] = true
		must(t, a.DeviceChanged(ctx, alice, "A0", "first"))
		allFine(t, whileHeld(t, a.DB, holdLists,
			func() error { return a.DeviceChanged(ctx, alice, "A1", "phone") },
			func() error { return b.DeviceChanged(ctx, alice, "A2", "laptop") }))
		wantChain(t, w, 3)
	})
}

func TestNodes_ManyChangesFormAChain(t *testing.T) {
	nodes(t, func(t *testing.T, a, b *Server, w *world) {
		ctx := context.Background()
		w.shared[alice] = true
		const writers, changes = 4, 6
		var wg sync.WaitGroup
		for i := range writers {
			s := []*Server{a, b}[i%2]
			dev := fmt.Sprintf("A%d", i)
			wg.Go(func() {
				for n := range changes {
					var err error
					switch n {
					case 2:
						_, err = s.UploadKeys(ctx, api.UploadKeys{User: alice, Device: id.Device(dev), DeviceKeys: deviceKeys(alice, dev)})
					case 4:
						err = s.DeleteDevices(ctx, alice, []id.Device{id.Device(dev)})
					default:
						err = s.DeviceChanged(ctx, alice, id.Device(dev), fmt.Sprint("name ", n))
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		wantChain(t, w, writers*changes)
	})
}

// follow makes a node keep carol's list, and gives the place it has in her server's sequence.
func follow(t *testing.T, s *Server, w *world) int64 {
	t.Helper()
	upload(t, w.remote, carol, "C1", nil)
	w.shared[carol] = true
	if got := devicesOf(t, s, carol); len(got) != 1 {
		t.Fatalf("carol's devices: %v", got)
	}
	var have int64
	must(t, s.DB.QueryRow(context.Background(), `SELECT stream_id FROM key_remote_lists WHERE user_id = $1`, string(carol)).Scan(&have))
	return have
}

func devicesOf(t *testing.T, s *Server, user id.User) map[id.Device]json.RawMessage {
	t.Helper()
	got, err := s.QueryKeys(context.Background(), api.QueryKeys{User: alice, Devices: map[id.User][]id.Device{user: nil}})
	must(t, err)
	if len(got.Failures) != 0 {
		t.Fatalf("failures: %s", got.Failures)
	}
	return got.DeviceKeys[user]
}

// lastUpdate gives the update of a remote user's device that her server sends.
func lastUpdate(t *testing.T, w *world, user id.User) json.RawMessage {
	t.Helper()
	ctx := context.Background()
	last, err := lastAnnounced(ctx, w.remote.DB, user)
	must(t, err)
	u, err := w.remote.deviceUpdate(ctx, last)
	must(t, err)
	raw, err := json.Marshal(u)
	must(t, err)
	return raw
}

func TestNodes_AMarkedGapStays(t *testing.T) {
	nodes(t, func(t *testing.T, a, b *Server, w *world) {
		ctx := context.Background()
		have := follow(t, a, w)
		gap := exec(`UPDATE key_remote_lists SET stale = 1 WHERE user_id = $1`, string(carol))
		allFine(t, whileHeld(t, a.DB, gap, func() error {
			return b.ReceiveEDU(ctx, "there", eduDeviceList, json.RawMessage(fmt.Sprintf(
				`{"user_id":%q,"device_id":"C2","stream_id":%d,"prev_id":[%d],"keys":%s}`, carol, have+1, have, deviceKeys(carol, "C2"))))
		}))
		if n := count(t, a, `key_remote_lists WHERE stale = 1`); n != 1 {
			t.Error("a list with a gap passes for whole")
		}
	})
}

// An update that arrives on one node while another fetches the list is in the list, or the list is fetched again.
func TestNodes_AnUpdateDuringAFetchIsNotLost(t *testing.T) {
	ctx := context.Background()
	update := func(t *testing.T, b *Server, w *world) {
		upload(t, w.remote, carol, "C2", nil)
		must(t, b.ReceiveEDU(ctx, "there", eduDeviceList, lastUpdate(t, w, carol)))
	}
	for _, c := range []struct {
		name   string
		before func(t *testing.T, a *Server, w *world) // what a knows
		during func(t *testing.T, b *Server, w *world)
	}{
		{"of a list never fetched", func(t *testing.T, a *Server, w *world) {
			upload(t, w.remote, carol, "C1", nil)
			w.shared[carol] = true
		}, update},
		{"of a list with a gap", func(t *testing.T, a *Server, w *world) {
			follow(t, a, w)
			must(t, a.DB.Update(ctx, exec(`UPDATE key_remote_lists SET stale = 1`)))
		}, update},
		{"of a list from before the sharing", func(t *testing.T, a *Server, w *world) {
			follow(t, a, w)
			must(t, a.DB.Update(ctx, func(tx *sqldb.Tx) error {
				_, err := stream.Advance(ctx, tx, stream.Events, 1)
				return err
			}))
			w.since = 1
		}, update},
		{"when the other node fetches too", func(t *testing.T, a *Server, w *world) {
			upload(t, w.remote, carol, "C1", nil)
			w.shared[carol] = true
		}, func(t *testing.T, b *Server, w *world) {
			upload(t, w.remote, carol, "C2", nil)
			if got := devicesOf(t, b, carol); len(got) != 2 {
				t.Errorf("the other node: %v", got)
			}
			must(t, b.ReceiveEDU(ctx, "there", eduDeviceList, lastUpdate(t, w, carol)))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			nodes(t, func(t *testing.T, a, b *Server, w *world) {
				c.before(t, a, w)
				w.during = func() { c.during(t, b, w) }
				devicesOf(t, a, carol)
				if w.during != nil {
					t.Fatal("the list was not fetched")
				}
				if got := devicesOf(t, a, carol); len(got) != 2 {
					t.Errorf("afterwards: %d devices, want 2", len(got))
				}
				asked := w.asked
				if devicesOf(t, b, carol); w.asked != asked {
					t.Error("the list is never trusted again")
				}
			})
		})
	}
}

func TestNodes_SigningKeysDuringAFetchAreNotLost(t *testing.T) {
	nodes(t, func(t *testing.T, a, b *Server, w *world) {
		ctx := context.Background()
		upload(t, w.remote, carol, "C1", nil)
		w.shared[carol] = true
		keys := newIdentity(carol, 3).upload(t)
		w.during = func() {
			must(t, w.remote.UploadCrossSigning(ctx, keys))
			raw, err := json.Marshal(signingKeyUpdate{UserID: carol, Master: keys.Master, SelfSigning: keys.SelfSigning})
			must(t, err)
			must(t, b.ReceiveEDU(ctx, "there", eduSigningKey, raw))
		}
		devicesOf(t, a, carol)
		got, err := a.QueryKeys(ctx, api.QueryKeys{User: alice, Devices: map[id.User][]id.Device{carol: nil}})
		must(t, err)
		if len(got.MasterKeys) != 1 || len(got.SelfSigningKeys) != 1 {
			t.Errorf("signing keys are lost: %s %s", got.MasterKeys, got.SelfSigningKeys)
		}
	})
}

// Two sweeps at once remove what one would.
func TestNodes_CrowdsAreThinnedOutOnce(t *testing.T) {
	nodes(t, func(t *testing.T, a, b *Server, _ *world) {
		ctx := context.Background()
		const over = 30
		devices := []string{"B1", "B2"}
		for i, dev := range devices {
			first := int64(i)*100_000 + 1
			must(t, a.DB.Update(ctx, exec(insertMessageSQL, first, string(bob), dev, []byte("{}"))))
			must(t, a.DB.Update(ctx, exec(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
				INSERT INTO to_device (pos, user_id, device_id, message) SELECT m.pos + n.i, m.user_id, m.device_id, m.message FROM n, to_device m WHERE m.pos = $2`,
				int64(maxWaiting+over-1), first)))
		}
		// The sweep of the other node is done with what waits too much for both devices, but not yet committed.
		swept := func(tx *sqldb.Tx) error {
			for i := range devices {
				if err := exec(`DELETE FROM to_device WHERE pos > $1 AND pos <= $1 + CAST($2 AS BIGINT)`, int64(i)*100_000, int64(over))(tx); err != nil {
					return err
				}
			}
			return nil
		}
		allFine(t, whileHeld(t, a.DB, swept, func() error {
			_, err := b.deleteCrowded(ctx)
			return err
		}))
		for _, dev := range devices {
			if n := count(t, a, `to_device WHERE device_id = $1`, dev); n != maxWaiting {
				t.Errorf("%d messages wait for %s, want %d", n, dev, maxWaiting)
			}
		}
	})
}

func TestNodes_StoredSigningKeysBelongTogether(t *testing.T) {
	nodes(t, func(t *testing.T, a, b *Server, _ *world) {
		ctx := context.Background()
		old, fresh := newIdentity(alice, 1), newIdentity(alice, 9)
		must(t, a.UploadCrossSigning(ctx, old.upload(t)))
		mixed := old
		mixed.self = fresh.self
		another := mixed.upload(t) // a new self-signing key under the old master key
		another.Master, another.UserSigning = nil, nil
		errs := whileHeld(t, a.DB, holdLists,
			func() error { return a.UploadCrossSigning(ctx, fresh.upload(t)) },
			func() error { return b.UploadCrossSigning(ctx, another) })
		for i, err := range errs {
			var refused *merr.Error
			if err != nil && !errors.As(err, &refused) {
				t.Errorf("upload %d: %v", i, err)
			}
		}
		stored, err := listCrossSigning(ctx, a.DB, alice)
		must(t, err)
		master := stored[usageMaster]
		pub, err := master.public()
		must(t, err)
		for usage, k := range stored {
			if usage == usageMaster {
				continue
			}
			if err := canonical.VerifyJSON(k.json, string(alice), id.KeyID("ed25519:"+master.keyID), pub); err != nil {
				t.Errorf("the stored %s key is not signed by the stored master key: %v", usage, err)
			}
		}
	})
}

func TestNodes_TheSameUploadTwiceIsFine(t *testing.T) {
	nodes(t, func(t *testing.T, a, b *Server, _ *world) {
		ctx := context.Background()
		up := func(s *Server, value string) (map[string]int, error) {
			return s.UploadKeys(ctx, api.UploadKeys{User: alice, Device: "A1", OneTimeKeys: map[string]json.RawMessage{
				"signed_curve25519:K": json.RawMessage(fmt.Sprintf(`{"key":%q}`, value))}})
		}
		first := func(key string) func(tx *sqldb.Tx) error {
			return exec(`INSERT INTO key_one_time (user_id, device_id, algorithm, key_id, added, key) VALUES ($1, 'A1', 'signed_curve25519', $2, 1, $3)`,
				string(alice), key, []byte(`{"key":"k"}`))
		}
		allFine(t, whileHeld(t, a.DB, first("K"), func() error {
			counts, err := up(b, "k")
			if counts["signed_curve25519"] != 1 {
				t.Errorf("counts %v", counts)
			}
			return err
		}))
		must(t, a.DB.Update(ctx, exec(`DELETE FROM key_one_time`)))
		errs := whileHeld(t, a.DB, first("K"), func() error {
			_, err := up(b, "another")
			return err
		})
		var refused *merr.Error
		if !errors.As(errs[0], &refused) || refused.Status != 400 {
			t.Errorf("another key under the same name: %v", errs[0])
		}
	})
}

func TestNodes_UploadsAtOnceMeet(t *testing.T) {
	nodes(t, func(t *testing.T, a, b *Server, _ *world) {
		ctx := context.Background()
		keys := map[string]json.RawMessage{}
		for i := range 20 {
			keys[fmt.Sprintf("signed_curve25519:K%d", i)] = json.RawMessage(`{"key":"k"}`)
		}
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				counts, err := []*Server{a, b}[i%2].UploadKeys(ctx, api.UploadKeys{User: alice, Device: "A1",
					DeviceKeys: deviceKeys(alice, "A1"), OneTimeKeys: keys, FallbackKeys: map[string]json.RawMessage{"signed_curve25519:F": json.RawMessage(`{"key":"f"}`)}})
				if err != nil || counts["signed_curve25519"] != len(keys) {
					t.Errorf("counts %v: %v", counts, err)
				}
			})
		}
		wg.Wait()
	})
}

func TestNodes_BackupVersionsAreNumberedOnce(t *testing.T) {
	nodes(t, func(t *testing.T, a, b *Server, _ *world) {
		ctx := context.Background()
		other := exec(`INSERT INTO backup_versions (user_id, version, algorithm, auth_data, etag, deleted) VALUES ($1, 1, 'alg', $2, 0, 0)`, string(alice), []byte("{}"))
		allFine(t, whileHeld(t, a.DB, other, func() error {
			v, err := b.CreateVersion(ctx, alice, "alg", json.RawMessage(`{}`))
			if err == nil && v != "2" {
				t.Errorf("version %s, want 2", v)
			}
			return err
		}))
		var wg sync.WaitGroup
		var mu sync.Mutex
		seen := map[string]bool{}
		for i := range 10 {
			wg.Go(func() {
				v, err := []*Server{a, b}[i%2].CreateVersion(ctx, alice, "alg", json.RawMessage(`{}`))
				mu.Lock()
				defer mu.Unlock()
				if err != nil || seen[v] {
					t.Errorf("version %s: %v", v, err)
				}
				seen[v] = true
			})
		}
		wg.Wait()
	})
}

func TestNodes_TheBetterSessionStays(t *testing.T) {
	nodes(t, func(t *testing.T, a, b *Server, _ *world) {
		ctx := context.Background()
		v, err := a.CreateVersion(ctx, alice, "alg", json.RawMessage(`{}`))
		must(t, err)
		other := exec(`INSERT INTO backup_keys (user_id, version, room_id, session_id, verified, first_index, forwarded, data)
			VALUES ($1, 1, '!r:here', 's', 1, 3, 0, $2)`, string(alice), []byte(session(3, 0, true)))
		put := func(s *Server, name string, raw json.RawMessage) (api.BackupState, error) {
			return s.PutKeys(ctx, alice, v, map[id.Room]map[string]json.RawMessage{"!r:here": {name: raw}})
		}
		allFine(t, whileHeld(t, a.DB, other, func() error {
			state, err := put(b, "s", session(5, 0, true))
			if err == nil && (state.Count != 1 || state.ETag != "0") {
				t.Errorf("state %+v: nothing changed", state)
			}
			return err
		}))
		got, err := a.GetKeys(ctx, alice, v, "!r:here", "s")
		must(t, err)
		if first := gjson.GetBytes(got["!r:here"]["s"], "first_message_index").Int(); first != 3 {
			t.Errorf("the worse copy, from index %d, replaced the better", first)
		}
		// Many at once, each with every session: the best of each stays, and nobody fails.
		const writers, sessions = 6, 8
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				keys := map[string]json.RawMessage{}
				for n := range sessions {
					keys[fmt.Sprint("x", n)] = session((i+n)%writers, 0, false)
				}
				if _, err := []*Server{a, b}[i%2].PutKeys(ctx, alice, v, map[id.Room]map[string]json.RawMessage{"!r:here": keys}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := count(t, a, `backup_keys WHERE session_id LIKE 'x%' AND first_index = 0`); n != sessions {
			t.Errorf("%d of %d sessions are the best there was", n, sessions)
		}
	})
}

// wire is a bus whose messages arrive at once, or not at all.
type wire struct {
	mu   sync.Mutex
	lost bool
	sent int
	subs map[string]map[int]func([]byte)
	n    int
	came chan struct{} // a subscriber
}

func newWire() *wire {
	return &wire{subs: map[string]map[int]func([]byte){}, came: make(chan struct{})}
}

func (w *wire) Publish(topic string, data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if topic == bus.TopicUpdates {
		return
	}
	w.sent++
	for _, fn := range w.subs[topic] {
		if !w.lost {
			fn(data)
		}
	}
}

func (w *wire) Subscribe(topic string, fn func([]byte)) func() {
	w.mu.Lock()
	w.n++
	key := w.n
	if w.subs[topic] == nil {
		w.subs[topic] = map[int]func([]byte){}
	}
	w.subs[topic][key] = fn
	w.mu.Unlock()
	w.came <- struct{}{}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subs[topic], key)
	}
}

// run runs nodes until the test ends, and returns when they listen. Then nobody must.
func (w *wire) run(t *testing.T, servers ...*Server) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, s := range servers {
		wg.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		if s.Shared {
			<-w.came
		}
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if len(w.subs[topicCounts]) != 0 {
			t.Error("a node that ended still listens")
		}
	})
}

// What one node says of a device's keys is right after they were claimed, uploaded or deleted on another.
func TestNodes_KeyCountsAreRight(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name         string
		shared, lost bool
		late         time.Duration // after which the counts must be right
	}{
		{"told", true, false, 0},
		{"the message lost", true, true, 3 * time.Second},
		{"alone", false, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			line := newWire()
			line.lost = c.lost
			now := time.Now()
			nodes(t, func(t *testing.T, a, b *Server, _ *world) {
				if !c.shared {
					b = a // with one process there is nobody to tell
				}
				line.run(t, a, b)
				line.sent = 0
				want := func(what string, oneTime, fallback int) {
					t.Helper()
					now = now.Add(c.late)
					for range 2 {
						got, err := b.KeyCounts(ctx, alice, "A1")
						must(t, err)
						if got.OneTime["signed_curve25519"] != oneTime || len(got.UnusedFallback) != fallback {
							t.Errorf("%s: %+v, want %d one-time and %d fallback keys", what, got, oneTime, fallback)
						}
					}
				}
				claim := func() {
					t.Helper()
					_, err := a.ClaimKeys(ctx, api.ClaimKeys{Keys: map[id.User]map[id.Device]string{alice: {"A1": "signed_curve25519"}}})
					must(t, err)
				}
				want("nothing yet", 0, 0)
				_, err := a.UploadKeys(ctx, api.UploadKeys{User: alice, Device: "A1",
					OneTimeKeys:  map[string]json.RawMessage{"signed_curve25519:K": json.RawMessage(`{"key":"k"}`)},
					FallbackKeys: map[string]json.RawMessage{"signed_curve25519:F": json.RawMessage(`{"key":"f"}`)}})
				must(t, err)
				want("uploaded", 1, 1)
				claim()
				want("claimed", 0, 1)
				claim()
				want("the fallback key claimed", 0, 0)
				_, err = a.UploadKeys(ctx, api.UploadKeys{User: alice, Device: "A1",
					OneTimeKeys: map[string]json.RawMessage{"signed_curve25519:L": json.RawMessage(`{"key":"l"}`)}})
				must(t, err)
				want("uploaded again", 1, 0)
				must(t, a.DeleteDevices(ctx, alice, []id.Device{"A1"}))
				want("logged out", 0, 0)
				if told := line.sent > 0; told != c.shared {
					t.Errorf("%d messages", line.sent)
				}
			}, func(cfg *Config) {
				cfg.Shared, cfg.Bus = c.shared, line
				cfg.Now = func() time.Time { return now }
			})
		})
	}
}

// A message that cannot be read, from a node of another version, makes a node look at everything anew.
func TestNodes_AMessageNobodyCanRead(t *testing.T) {
	line := newWire()
	nodes(t, func(t *testing.T, a, _ *Server, _ *world) {
		line.run(t, a)
		ctx := context.Background()
		_, err := a.KeyCounts(ctx, alice, "A1")
		must(t, err)
		must(t, a.DB.Update(ctx, exec(`INSERT INTO key_one_time (user_id, device_id, algorithm, key_id, added, key) VALUES ($1, 'A1', 'x', 'K', 1, $2)`,
			string(alice), []byte(`{}`))))
		line.Publish(topicCounts, []byte("?"))
		got, err := a.KeyCounts(ctx, alice, "A1")
		must(t, err)
		if got.OneTime["x"] != 1 {
			t.Errorf("%+v", got)
		}
	}, func(cfg *Config) { cfg.Shared, cfg.Bus = true, line })
}
