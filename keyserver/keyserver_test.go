package keyserver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/tidwall/gjson"

	fedapi "weft/federationapi/api"
	"weft/internal/bus"
	"weft/internal/fedclient"
	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/stream"
	"weft/keyserver/api"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	alice = id.User("@alice:here")
	bob   = id.User("@bob:here")
	carol = id.User("@carol:there")
)

// world is everything around a key server: who shares rooms, what was sent, and
// another server that answers.
type world struct {
	mu     sync.Mutex
	shared map[id.User]bool
	newTo  map[id.Room][]id.Server
	came   map[id.User]bool
	since  int64 // position at which sharing began
	sent   []fedapi.EDU
	remote *Server // answers for "there"
	down   bool
	asked  int
	during func() // runs while the other server's answer to GetUserDevices is on its way
}

func (w *world) ServersSharingRoomsWith(_ context.Context, user id.User) ([]id.Server, error) {
	if w.shared[user] {
		return []id.Server{"here", "there"}, nil
	}
	return []id.Server{"here"}, nil
}

func (w *world) ServersNewTo(_ context.Context, user id.User, room id.Room) ([]id.Server, error) {
	return w.newTo[room], nil
}

func (w *world) SharedSince(_ context.Context, user id.User) (int64, bool, error) {
	return w.since, w.shared[user], nil
}

func (w *world) CameLast(_ context.Context, user id.User) (bool, error) { return w.came[user], nil }

func (w *world) SendEDU(_ context.Context, edu fedapi.EDU) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, edu)
	return nil
}

func (w *world) DestinationAlive(context.Context, id.Server) error { return nil }

func (w *world) ask() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if w.down {
		return merr.ConnectionFailed("there is down")
	}
	return nil
}

func (w *world) QueryKeys(ctx context.Context, _ id.Server, want map[id.User][]id.Device) (*fedclient.DeviceKeys, error) {
	if err := w.ask(); err != nil {
		return nil, err
	}
	got, err := w.remote.QueryKeys(ctx, api.QueryKeys{Origin: "here", Devices: want})
	if err != nil {
		return nil, err
	}
	return &fedclient.DeviceKeys{DeviceKeys: got.DeviceKeys, MasterKeys: got.MasterKeys, SelfSigningKeys: got.SelfSigningKeys}, nil
}

func (w *world) ClaimKeys(ctx context.Context, _ id.Server, want map[id.User]map[id.Device]string) (map[id.User]map[id.Device]json.RawMessage, error) {
	if err := w.ask(); err != nil {
		return nil, err
	}
	got, err := w.remote.ClaimKeys(ctx, api.ClaimKeys{Origin: "here", Keys: want})
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(got.OneTimeKeys)
	if err != nil {
		return nil, err
	}
	var out map[id.User]map[id.Device]json.RawMessage
	return out, json.Unmarshal(raw, &out)
}

func (w *world) GetUserDevices(ctx context.Context, user id.User) (*fedclient.UserDevices, error) {
	if err := w.ask(); err != nil {
		return nil, err
	}
	raw, err := w.remote.GetUserDevices(ctx, user)
	if err != nil {
		return nil, err
	}
	if during := w.during; during != nil {
		w.during = nil
		during()
	}
	var out fedclient.UserDevices
	return &out, json.Unmarshal(raw, &out)
}

func newServer(t *testing.T, db *sqldb.DB, name id.Server, w *world, opts ...func(*Config)) *Server {
	t.Helper()
	ctx := context.Background()
	if err := stream.Migrate(ctx, db); err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	cfg := Config{
		DB: db, Bus: bus.NewLocal(), Log: log, Now: time.Now, ServerName: name,
		Rooms: w, Federation: w, Outbound: w,
	}
	for _, opt := range opts {
		opt(&cfg)
	}
	s, err := New(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// each runs a test on both databases, with a server "here" and one "there".
func each(t *testing.T, fn func(t *testing.T, s *Server, w *world)) {
	sqldbtest.Run(t, func(t *testing.T, open func() *sqldb.DB) {
		w := &world{shared: map[id.User]bool{}}
		w.remote = newServer(t, open(), "there", &world{shared: map[id.User]bool{}})
		fn(t, newServer(t, open(), "here", w), w)
	})
}

func deviceKeys(user id.User, dev string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"user_id":%q,"device_id":%q,"algorithms":["m.megolm.v1.aes-sha2"],"keys":{"ed25519:%s":"%s"},"signatures":{}}`,
		user, dev, dev, base64.RawStdEncoding.EncodeToString(make([]byte, 32))))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func upload(t *testing.T, s *Server, user id.User, dev string, oneTime map[string]json.RawMessage) map[string]int {
	t.Helper()
	counts, err := s.UploadKeys(context.Background(), api.UploadKeys{
		User: user, Device: id.Device(dev), DisplayName: dev + "'s name", DeviceKeys: deviceKeys(user, dev), OneTimeKeys: oneTime,
	})
	must(t, err)
	return counts
}

func TestUploadedKeysAreQueried(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		upload(t, s, alice, "A1", nil)
		upload(t, s, alice, "A2", nil)
		got, err := s.QueryKeys(context.Background(), api.QueryKeys{User: bob, Devices: map[id.User][]id.Device{alice: nil}})
		must(t, err)
		if len(got.DeviceKeys[alice]) != 2 {
			t.Fatalf("devices: %v", got.DeviceKeys)
		}
		if name := gjson.GetBytes(got.DeviceKeys[alice]["A1"], "unsigned.device_display_name").String(); name != "A1's name" {
			t.Errorf("display name %q", name)
		}
		got, err = s.QueryKeys(context.Background(), api.QueryKeys{User: bob, Devices: map[id.User][]id.Device{alice: {"A2"}}})
		must(t, err)
		if _, ok := got.DeviceKeys[alice]["A2"]; !ok || len(got.DeviceKeys[alice]) != 1 {
			t.Errorf("one device was asked for: %v", got.DeviceKeys)
		}
	})
}

func TestUploadRefusesKeysOfOthers(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		for name, req := range map[string]api.UploadKeys{
			"another user":   {User: alice, Device: "A1", DeviceKeys: deviceKeys(bob, "A1")},
			"another device": {User: alice, Device: "A1", DeviceKeys: deviceKeys(alice, "A2")},
			"no object":      {User: alice, Device: "A1", DeviceKeys: json.RawMessage(`[]`)},
			"bad key name":   {User: alice, Device: "A1", OneTimeKeys: map[string]json.RawMessage{"x": json.RawMessage(`"k"`)}},
			"bad key":        {User: alice, Device: "A1", OneTimeKeys: map[string]json.RawMessage{"a:b": json.RawMessage(`3`)}},
		} {
			var e *merr.Error
			if _, err := s.UploadKeys(context.Background(), req); !errors.As(err, &e) || e.Status != 400 {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestOneTimeKeysAreClaimedOnceInOrderThenTheFallback(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		ctx := context.Background()
		one := func(i int) map[string]json.RawMessage {
			return map[string]json.RawMessage{fmt.Sprintf("signed_curve25519:K%d", i): json.RawMessage(fmt.Sprintf(`{"key":"k%d"}`, i))}
		}
		for _, i := range []int{3, 1, 2} {
			upload(t, s, alice, "A1", one(i))
		}
		if counts := upload(t, s, alice, "A1", one(2)); counts["signed_curve25519"] != 3 {
			t.Errorf("counts after the same upload again: %v", counts)
		}
		if _, err := s.UploadKeys(ctx, api.UploadKeys{User: alice, Device: "A1", OneTimeKeys: map[string]json.RawMessage{
			"signed_curve25519:K1": json.RawMessage(`{"key":"other"}`)}}); err == nil {
			t.Error("another key under the same name was taken")
		}
		_, err := s.UploadKeys(ctx, api.UploadKeys{User: alice, Device: "A1", FallbackKeys: map[string]json.RawMessage{
			"signed_curve25519:F": json.RawMessage(`{"key":"f","fallback":true}`)}})
		must(t, err)
		for _, want := range []string{"K3", "K1", "K2", "F", "F"} {
			got, err := s.ClaimKeys(ctx, api.ClaimKeys{Keys: map[id.User]map[id.Device]string{alice: {"A1": "signed_curve25519"}}})
			must(t, err)
			if _, ok := got.OneTimeKeys[alice]["A1"]["signed_curve25519:"+want]; !ok {
				t.Errorf("claimed %v, want %s", got.OneTimeKeys, want)
			}
			counts, err := s.KeyCounts(ctx, alice, "A1")
			must(t, err)
			if unused := len(counts.UnusedFallback) == 1; unused != (want != "F") {
				t.Errorf("after %s: unused fallback keys %v", want, counts.UnusedFallback)
			}
		}
	})
}

func TestConcurrentClaimsNeverShareAKey(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		const n = 40
		keys := map[string]json.RawMessage{}
		for i := range n {
			keys[fmt.Sprintf("signed_curve25519:K%02d", i)] = json.RawMessage(fmt.Sprintf(`{"key":"%d"}`, i))
		}
		upload(t, s, alice, "A1", keys)
		var mu sync.Mutex
		seen := map[string]int{}
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				got, err := s.ClaimKeys(context.Background(), api.ClaimKeys{Keys: map[id.User]map[id.Device]string{alice: {"A1": "signed_curve25519"}}})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				for k := range got.OneTimeKeys[alice]["A1"] {
					seen[k]++
				}
			})
		}
		wg.Wait()
		if len(seen) != n {
			t.Errorf("%d different keys in %d claims", len(seen), n)
		}
	})
}

func TestDeviceListSequenceHasNoGaps(t *testing.T) {
	each(t, func(t *testing.T, s *Server, w *world) {
		ctx := context.Background()
		w.shared[alice] = true
		upload(t, s, alice, "A1", nil)
		must(t, s.UploadCrossSigning(ctx, newIdentity(alice, 1).upload(t))) // no stream_id in its EDU
		must(t, s.DeviceChanged(ctx, alice, "A2", "phone"))
		must(t, s.DeviceChanged(ctx, alice, "A2", "phone")) // nothing changed
		must(t, s.DeleteDevices(ctx, alice, []id.Device{"A1"}))
		var last int64
		n := 0
		for _, e := range w.sent {
			if e.Type != eduDeviceList {
				continue
			}
			n++
			if !e.Durable {
				t.Error("a device list update may be lost")
			}
			if prev := gjson.GetBytes(e.Content, "prev_id.0").Int(); prev != last {
				t.Errorf("update %s follows %d", e.Content, last)
			}
			last = gjson.GetBytes(e.Content, "stream_id").Int()
		}
		if n != 3 {
			t.Errorf("%d updates, want 3", n)
		}
		users, err := s.ListChanged(ctx, 0, 1<<60)
		must(t, err)
		if len(users) != 1 || users[0] != alice {
			t.Errorf("changed: %v", users)
		}
	})
}

func TestServersThatBeginToShareARoomAreTold(t *testing.T) {
	each(t, func(t *testing.T, s *Server, w *world) {
		ctx := context.Background()
		w.newTo = map[id.Room][]id.Server{"!new:there": {"here", "there", "third"}, "!old:there": {"here"}}
		must(t, s.JoinedRoom(ctx, alice, "!new:there"))
		if len(w.sent) != 0 {
			t.Errorf("told of no devices: %v", w.sent)
		}
		w.shared[alice] = true
		upload(t, s, alice, "A1", nil)
		must(t, s.DeviceChanged(ctx, alice, "A2", "phone"))
		upload(t, s, alice, "A2", nil)
		last := w.sent[len(w.sent)-1]
		before, err := stream.Position(ctx, s.DB, stream.DeviceLists)
		must(t, err)
		check := func(what string, deleted bool) {
			t.Helper()
			w.sent = nil
			must(t, s.JoinedRoom(ctx, alice, "!old:there"))
			must(t, s.JoinedRoom(ctx, alice, "!new:there"))
			if len(w.sent) != 1 || fmt.Sprint(w.sent[0].Destinations) != "[there third]" || !w.sent[0].Durable ||
				string(w.sent[0].Content) != string(last.Content) || gjson.GetBytes(last.Content, "deleted").Bool() != deleted {
				t.Errorf("%s: %s to %v, want %s", what, w.sent[0].Content, w.sent[0].Destinations, last.Content)
			}
		}
		check("the last update again", false)
		if now, err := stream.Position(ctx, s.DB, stream.DeviceLists); now != before || err != nil {
			t.Errorf("the list changed: %d, %d (%v)", before, now, err)
		}
		must(t, s.DeleteDevices(ctx, alice, []id.Device{"A1"}))
		last = w.sent[len(w.sent)-1]
		check("after a logout", true)
		// A server that did not know what came before fetches the list, and is up to date then.
		must(t, w.remote.ReceiveEDU(ctx, "here", last.Type, last.Content))
		if list, err := w.remote.ListChanged(ctx, 0, 1<<60); err != nil || fmt.Sprint(list) != "[@alice:here]" {
			t.Errorf("changed there: %v (%v)", list, err)
		}
		raw, err := s.GetUserDevices(ctx, alice)
		must(t, err)
		if at, want := gjson.GetBytes(raw, "stream_id").Int(), gjson.GetBytes(last.Content, "stream_id").Int(); at != want {
			t.Errorf("the list is at %d, the update at %d", at, want)
		}
	})
}

// The update that comes with a user is no change; those after it are, also before anybody asked
// for the list.
func TestTheUpdateThatComesWithAUserIsNoChange(t *testing.T) {
	each(t, func(t *testing.T, s *Server, w *world) {
		ctx := context.Background()
		upload(t, w.remote, carol, "C1", nil)
		w.shared[carol], w.came = true, map[id.User]bool{carol: true}
		told := func(what string, user id.User, at int64, want int) {
			t.Helper()
			from, err := stream.Position(ctx, s.DB, stream.DeviceLists)
			must(t, err)
			must(t, s.ReceiveEDU(ctx, "there", eduDeviceList, json.RawMessage(fmt.Sprintf(
				`{"user_id":%q,"device_id":"C1","stream_id":%d,"prev_id":[%d]}`, user, at, at-1))))
			if list, err := s.ListChanged(ctx, from, 1<<60); err != nil || len(list) != want {
				t.Errorf("%s: changed %v (%v)", what, list, err)
			}
		}
		told("with the user", carol, 20, 0)
		told("after that", carol, 21, 1)
		if got, err := s.QueryKeys(ctx, api.QueryKeys{User: alice, Devices: map[id.User][]id.Device{carol: nil}}); err != nil || len(got.DeviceKeys[carol]) != 1 || w.asked != 1 {
			t.Errorf("%v, asked %d times (%v)", got.DeviceKeys, w.asked, err)
		}
		told("of a user who was there before ours", "@dave:there", 5, 1)
	})
}

func TestRemoteListsAreCachedWhileRoomsAreShared(t *testing.T) {
	each(t, func(t *testing.T, s *Server, w *world) {
		ctx := context.Background()
		upload(t, w.remote, carol, "C1", nil)
		query := func() api.QueriedKeys {
			got, err := s.QueryKeys(ctx, api.QueryKeys{User: alice, Devices: map[id.User][]id.Device{carol: nil}})
			must(t, err)
			return got
		}
		for range 2 {
			if got := query(); len(got.DeviceKeys[carol]) != 1 {
				t.Fatalf("%+v", got)
			}
		}
		if w.asked != 2 {
			t.Errorf("asked %d times without a shared room, want each time", w.asked)
		}
		w.shared[carol] = true
		for range 3 {
			query()
		}
		if w.asked != 3 {
			t.Errorf("asked %d times, want once more", w.asked)
		}
		upload(t, w.remote, carol, "C1", map[string]json.RawMessage{"signed_curve25519:K": json.RawMessage(`{"key":"k"}`)})
		claimed, err := s.ClaimKeys(ctx, api.ClaimKeys{Keys: map[id.User]map[id.Device]string{carol: {"C1": "signed_curve25519", "C9": "signed_curve25519"}}})
		must(t, err)
		if len(claimed.OneTimeKeys[carol]) != 1 || string(claimed.OneTimeKeys[carol]["C1"]["signed_curve25519:K"]) != `{"key":"k"}` {
			t.Errorf("claimed %s", claimed.OneTimeKeys)
		}
		w.asked--
		// An update that continues the sequence is applied; one after a gap
		// makes the list stale.
		var list fedclient.UserDevices
		raw, err := w.remote.GetUserDevices(ctx, carol)
		must(t, err)
		must(t, json.Unmarshal(raw, &list))
		edu := func(id, prev int64, dev string) {
			must(t, s.ReceiveEDU(ctx, "there", eduDeviceList, json.RawMessage(fmt.Sprintf(
				`{"user_id":%q,"device_id":%q,"stream_id":%d,"prev_id":[%d],"keys":%s}`, carol, dev, id, prev, deviceKeys(carol, dev)))))
		}
		edu(list.StreamID+1, list.StreamID, "C2")
		if got := query(); len(got.DeviceKeys[carol]) != 2 || w.asked != 3 {
			t.Errorf("after an update: %d devices, asked %d times", len(got.DeviceKeys[carol]), w.asked)
		}
		edu(list.StreamID+9, list.StreamID+8, "C3")
		if got := query(); len(got.DeviceKeys[carol]) != 1 || w.asked != 4 {
			t.Errorf("after a gap: %d devices, asked %d times", len(got.DeviceKeys[carol]), w.asked)
		}
		// Who left all shared rooms and came back may have changed keys meanwhile.
		w.since = 1
		if got := query(); len(got.DeviceKeys[carol]) != 1 || w.asked != 5 {
			t.Errorf("after coming back: %d devices, asked %d times", len(got.DeviceKeys[carol]), w.asked)
		}
		if err := s.ReceiveEDU(ctx, "elsewhere", eduDeviceList, json.RawMessage(`{"user_id":"@carol:there","device_id":"X","stream_id":1}`)); !errors.Is(err, merr.ErrForbidden) {
			t.Errorf("a third server spoke for carol: %v", err)
		}
	})
}

func TestAServerThatIsDownIsAFailureOfItsUsersOnly(t *testing.T) {
	each(t, func(t *testing.T, s *Server, w *world) {
		ctx := context.Background()
		w.down = true
		upload(t, s, alice, "A1", nil)
		got, err := s.QueryKeys(ctx, api.QueryKeys{User: bob, Devices: map[id.User][]id.Device{alice: nil, carol: nil}})
		must(t, err)
		if got.Failures["there"] == nil || len(got.DeviceKeys[alice]) != 1 {
			t.Errorf("query: %+v", got)
		}
		claimed, err := s.ClaimKeys(ctx, api.ClaimKeys{Keys: map[id.User]map[id.Device]string{carol: {"C1": "signed_curve25519"}}})
		must(t, err)
		if claimed.Failures["there"] == nil {
			t.Errorf("claim: %+v", claimed)
		}
	})
}

func TestToDevice(t *testing.T) {
	each(t, func(t *testing.T, s *Server, w *world) {
		ctx := context.Background()
		must(t, s.DeviceChanged(ctx, bob, "B1", ""))
		must(t, s.DeviceChanged(ctx, bob, "B2", ""))
		req := api.SendToDevice{Sender: alice, Device: "A1", Type: "m.test", TxnID: "1", Messages: toDeviceMessages{
			bob:   {"*": json.RawMessage(`{"n":1}`)},
			carol: {"C1": json.RawMessage(`{"n":2}`)},
		}}
		must(t, s.SendToDevice(ctx, req))
		must(t, s.SendToDevice(ctx, req)) // the same request again
		for _, dev := range []id.Device{"B1", "B2"} {
			msgs, last, err := s.ListMessages(ctx, bob, dev, 0, 1<<60, 100)
			must(t, err)
			if len(msgs) != 1 || gjson.GetBytes(msgs[0], "sender").String() != string(alice) {
				t.Fatalf("%s got %s", dev, msgs)
			}
			must(t, s.DeleteMessages(ctx, bob, dev, last))
			if msgs, _, err = s.ListMessages(ctx, bob, dev, 0, 1<<60, 100); err != nil || len(msgs) != 0 {
				t.Errorf("after the acknowledgement: %s, %v", msgs, err)
			}
		}
		if len(w.sent) != 2 || string(w.sent[0].Content) != string(w.sent[1].Content) || !w.sent[0].Durable {
			t.Fatalf("EDUs: %+v", w.sent)
		}
		// The other server takes the repetition once.
		must(t, w.remote.DeviceChanged(ctx, carol, "C1", ""))
		for range 2 {
			must(t, w.remote.ReceiveToDevice(ctx, "here", w.sent[0].Content))
		}
		if msgs, _, err := w.remote.ListMessages(ctx, carol, "C1", 0, 1<<60, 100); err != nil || len(msgs) != 1 {
			t.Errorf("carol got %s, %v", msgs, err)
		}
		if err := w.remote.ReceiveToDevice(ctx, "elsewhere", w.sent[0].Content); !errors.Is(err, merr.ErrForbidden) {
			t.Errorf("a third server sent in alice's name: %v", err)
		}
	})
}

func TestToDevicePagesGoOnWhereTheyStopped(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		ctx := context.Background()
		must(t, s.DeviceChanged(ctx, bob, "B1", ""))
		for i := range 5 {
			must(t, s.SendToDevice(ctx, api.SendToDevice{Sender: alice, Type: "m.test", TxnID: fmt.Sprint(i),
				Messages: toDeviceMessages{bob: {"B1": json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))}}}))
		}
		var got []int64
		from := int64(0)
		for len(got) < 5 {
			msgs, last, err := s.ListMessages(ctx, bob, "B1", from, 1<<60, 2)
			must(t, err)
			for _, m := range msgs {
				got = append(got, gjson.GetBytes(m, "content.n").Int())
			}
			from = last
		}
		if fmt.Sprint(got) != "[0 1 2 3 4]" {
			t.Errorf("got %v", got)
		}
	})
}

func TestLoggedOutDevicesLeaveNothing(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		ctx := context.Background()
		upload(t, s, alice, "A1", map[string]json.RawMessage{"signed_curve25519:K": json.RawMessage(`{"key":"k"}`)})
		must(t, s.SendToDevice(ctx, api.SendToDevice{Sender: bob, Type: "t", TxnID: "1", Messages: toDeviceMessages{alice: {"A1": json.RawMessage(`{}`)}}}))
		must(t, s.DeleteDevices(ctx, alice, []id.Device{"A1"}))
		got, err := s.QueryKeys(ctx, api.QueryKeys{User: bob, Devices: map[id.User][]id.Device{alice: nil}})
		must(t, err)
		counts, err := s.KeyCounts(ctx, alice, "A1")
		must(t, err)
		msgs, _, err := s.ListMessages(ctx, alice, "A1", 0, 1<<60, 10)
		must(t, err)
		if len(got.DeviceKeys[alice]) != 0 || counts.OneTime["signed_curve25519"] != 0 || len(msgs) != 0 {
			t.Errorf("left: %v %v %s", got.DeviceKeys, counts, msgs)
		}
	})
}
