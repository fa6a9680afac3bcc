package keyserver

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/keyserver/api"
	"weft/matrix/id"
)

// keep runs the upkeep at a time; it gives what was removed, by kind.
func keep(t *testing.T, s *Server, at time.Time) map[string]int64 {
	t.Helper()
	ctx := context.Background()
	s.Now = func() time.Time { return at }
	must(t, stream.Note(ctx, s.DB, at))
	out := map[string]int64{}
	for _, task := range s.upkeep() {
		n, err := task.Run(ctx)
		must(t, err)
		out[task.Kind] = n
	}
	return out
}

func count(t *testing.T, s *Server, where string, args ...any) (n int) {
	t.Helper()
	must(t, s.DB.QueryRow(context.Background(), `SELECT COUNT(*) FROM `+where, args...).Scan(&n))
	return n
}

func TestToDeviceMessagesDoNotWaitForEver(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		ctx, start := context.Background(), time.Now()
		upload(t, s, bob, "B1", nil)
		upload(t, s, bob, "B2", nil)
		send := func(txn string, dev id.Device) {
			t.Helper()
			must(t, s.SendToDevice(ctx, api.SendToDevice{Sender: alice, Device: "A1", Type: "m.x", TxnID: txn,
				Messages: map[id.User]map[id.Device]json.RawMessage{bob: {dev: json.RawMessage(`{}`)}}}))
		}
		send("1", "*")
		if got := keep(t, s, start); got["to_device"] != 0 || got["to_device_seen"] != 0 {
			t.Errorf("at once: %v", got)
		}
		s.Now = func() time.Time { return start.Add(60 * 24 * time.Hour) }
		send("2", "*")
		if got := keep(t, s, start.Add(messagesFor+time.Hour)); got["to_device"] != 2 || got["to_device_seen"] != 2 {
			t.Errorf("after %v: %v", messagesFor, got)
		}
		msgs, _, err := s.ListMessages(ctx, bob, "B1", 0, 1<<40, 10)
		if err != nil || len(msgs) != 1 {
			t.Errorf("%d messages are left (%v), want the newer one", len(msgs), err)
		}
		// A device for which too many wait.
		err = s.DB.Update(ctx, func(tx *sqldb.Tx) error {
			for i := range maxWaiting + 700 {
				if _, err := tx.Exec(ctx, insertMessageSQL, 1000+i, string(bob), "B1", []byte(fmt.Sprint(i))); err != nil {
					return err
				}
			}
			return nil
		})
		must(t, err)
		if got := keep(t, s, start.Add(messagesFor+2*time.Hour)); got["to_device_crowded"] != 701 {
			t.Errorf("crowded: %v", got)
		}
		msgs, _, err = s.ListMessages(ctx, bob, "B1", 0, 1<<40, 1)
		if err != nil || len(msgs) != 1 || string(msgs[0]) != "700" {
			t.Errorf("the oldest is %s (%v)", msgs, err)
		}
		if n := count(t, s, `to_device WHERE device_id = 'B2'`); n != 1 {
			t.Errorf("%d messages of the other device are left", n)
		}
	})
}

func TestKeysOfADeletedBackupGo(t *testing.T) {
	each(t, func(t *testing.T, s *Server, _ *world) {
		ctx := context.Background()
		first, err := s.CreateVersion(ctx, alice, "m.megolm_backup.v1", json.RawMessage(`{}`))
		must(t, err)
		put := func(version string) {
			t.Helper()
			_, err := s.PutKeys(ctx, alice, version, map[id.Room]map[string]json.RawMessage{"!r:here": {
				"s1": json.RawMessage(`{"first_message_index":1,"forwarded_count":0,"is_verified":false,"session_data":{}}`)}})
			must(t, err)
		}
		put(first)
		must(t, s.DeleteVersion(ctx, alice, first))
		second, err := s.CreateVersion(ctx, alice, "m.megolm_backup.v1", json.RawMessage(`{}`))
		must(t, err)
		put(second)
		if _, err := s.GetKeys(ctx, alice, first, "", ""); err == nil {
			t.Error("keys of a deleted backup can be read")
		}
		if got := keep(t, s, time.Now()); got["backup_keys"] != 1 || count(t, s, "backup_keys") != 1 {
			t.Errorf("removed %v, %d left", got, count(t, s, "backup_keys"))
		}
		if keys, err := s.GetKeys(ctx, alice, second, "", ""); err != nil || len(keys) != 1 {
			t.Errorf("the other backup: %v (%v)", keys, err)
		}
	})
}

func TestDeviceListsOfStrangersGo(t *testing.T) {
	each(t, func(t *testing.T, s *Server, w *world) {
		ctx, start := context.Background(), time.Now()
		dave := id.User("@dave:there")
		for _, u := range []id.User{carol, dave} {
			upload(t, w.remote, u, "D", nil)
			w.shared[u] = true
		}
		upload(t, s, alice, "A", nil)
		_, err := s.QueryKeys(ctx, api.QueryKeys{User: alice, Devices: map[id.User][]id.Device{carol: nil, dave: nil}})
		must(t, err)
		for _, u := range []id.User{carol, dave} {
			must(t, s.ReceiveEDU(ctx, "there", eduDeviceList, json.RawMessage(fmt.Sprintf(`{"user_id":%q,"device_id":"E","stream_id":1000}`, u))))
		}
		if got := keep(t, s, start); got["device_lists"] != 0 {
			t.Errorf("while rooms are shared: %v", got)
		}
		w.shared[dave] = false
		if got := keep(t, s, start.Add(24*time.Hour)); got["device_lists"] != 1 || count(t, s, `key_devices WHERE user_id = $1`, string(dave)) != 0 {
			t.Errorf("when none is shared: %v", got)
		}
		if n := count(t, s, `key_list_changes WHERE user_id = $1`, string(dave)); n != 1 {
			t.Errorf("the change is forgotten too early: %d", n)
		}
		if got := keep(t, s, start.Add(2*listsFor)); got["device_lists"] != 1 || count(t, s, `key_list_changes WHERE user_id = $1`, string(dave)) != 0 {
			t.Errorf("later: %v", got)
		}
		if count(t, s, `key_devices WHERE user_id = $1`, string(carol)) != 1 || count(t, s, `key_list_changes WHERE user_id IN ($1, $2)`, string(carol), string(alice)) != 2 {
			t.Error("others' lists are gone")
		}
	})
}
