package cluster

import (
	"net/url"
	"sync"
	"testing"
)

// A /sync that follows another one on a different node brings nothing again.
func TestNothingComesTwice(t *testing.T) {
	c := newCluster(t, 3)
	c.start()
	w := &workload{t: t, c: newClient(t, c.nodes)}
	ctx := t.Context()
	u := w.register(ctx, "ann")
	sync1 := func(i int, since string) (string, map[string]string) {
		q := url.Values{"timeout": {"0"}, "set_presence": {"offline"}}
		if since != "" {
			q.Set("since", since)
		}
		a, err := w.c.once(ctx, c.nodes[i%3], "GET", "/_matrix/client/v3/sync?"+q.Encode(), u.token, nil)
		if err != nil || a.status != 200 {
			t.Errorf("/sync: %v %s", err, a.body.Raw)
		}
		rooms := map[string]string{}
		for id, r := range a.body.Get("rooms.join").Map() {
			rooms[id] = r.Raw
		}
		return a.body.Get("next_batch").Str, rooms
	}
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 60 {
				made, err := w.c.once(ctx, c.nodes[(i+worker)%3], "POST", "/_matrix/client/v3/createRoom", u.token, []byte(`{}`))
				if err != nil || made.status != 200 {
					t.Errorf("create: %v %s", err, made.body.Raw)
					return
				}
				room := made.body.Get("room_id").Str
				since, rooms := sync1(i+worker+1, "")
				if rooms[room] == "" {
					t.Errorf("%s is not in the first /sync", room)
					return
				}
				if next, rooms := sync1(i+worker+2, since); rooms[room] != "" {
					t.Errorf("%s again, from %s to %s: %s", room, since, next, rooms[room])
					return
				}
			}
		})
	}
	wg.Wait()
}
