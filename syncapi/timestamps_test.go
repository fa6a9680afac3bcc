package syncapi

import (
	"fmt"
	"testing"
	"time"

	"weft/internal/eventstore"
	"weft/matrix/id"
)

func TestTimestampToEvent(t *testing.T) {
	eachDB(t, func(t *testing.T, e *env) {
		r := e.newRoom(alice)
		var list []*eventstore.Event
		for i := range 5 {
			e.advance(time.Minute)
			list = append(list, r.say(alice, fmt.Sprint(i)))
		}
		r.ts = list[4].OriginServerTS - e.clock().UnixMilli() - 1 // the same time again
		same := r.say(alice, "same")
		path := v1 + "/rooms/" + string(r.id) + "/timestamp_to_event"
		for _, c := range []struct {
			ts   int64
			dir  string
			want id.Event
		}{
			{list[2].OriginServerTS, "f", list[2].ID},
			{list[2].OriginServerTS, "b", list[2].ID},
			{list[2].OriginServerTS + 1, "f", list[3].ID},
			{list[2].OriginServerTS - 1, "b", list[1].ID},
			{same.OriginServerTS, "b", same.ID},
			{same.OriginServerTS, "f", list[4].ID},
		} {
			expect(t, fmt.Sprint(c), e.get(alice, path, "ts", fmt.Sprint(c.ts), "dir", c.dir).Get("event_id").Str, c.want)
		}
		e.want(alice, 404, "M_NOT_FOUND", "GET", path+"?ts=1&dir=b", nil)
		e.want(alice, 404, "M_NOT_FOUND", "GET", fmt.Sprintf("%s?ts=%d&dir=f", path, same.OriginServerTS+1), nil)
		e.want(alice, 400, "M_MISSING_PARAM", "GET", path+"?dir=f", nil)
		e.want(alice, 400, "M_MISSING_PARAM", "GET", path+"?ts=1", nil)
		e.want(alice, 400, "M_INVALID_PARAM", "GET", path+"?ts=1&dir=x", nil)
		e.want(bob, 403, "M_FORBIDDEN", "GET", path+"?ts=1&dir=f", nil)
	})
}
